// The grouped products of cuBLASLt beside plain loops, and what it asks of its callers.
#include <cmath>
#include <optional>
#include <random>

#include "cuda/emulator/bf16.h"
#include "cuda/emulator/cublaslt.h"
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

constexpr std::size_t kWorkspace = std::size_t{1} << 20;
constexpr auto kN = CUBLAS_OP_N;
constexpr auto kT = CUBLAS_OP_T;

std::vector<float> random(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<float> out;
  for (std::size_t i = 0; i < n; ++i) {
    const bf16 x(static_cast<float>(std::normal_distribution<double>()(engine)));
    out.push_back(static_cast<float>(x));
  }
  return out;
}
std::vector<bf16> stored(const std::vector<float>& x) {
  std::vector<bf16> out;
  for (const float value : x) out.emplace_back(value);
  return out;
}

struct Sizes {
  int m, n, k;
};

// Matrices of a kind, one of each group, as the host knows them.
struct Kind {
  std::vector<std::int64_t> rows, cols, ld, begin;
  std::int64_t size = 0;  // of all, in elements

  void add(std::int64_t r, std::int64_t c) {
    rows.push_back(r);
    cols.push_back(c);
    ld.push_back(r + 8);
    begin.push_back(size);
    size += (r + 8) * c + 8;
  }
  std::size_t at(std::size_t e, std::int64_t i, std::int64_t j) const {
    return static_cast<std::size_t>(begin[e] + i + j * ld[e]);
  }
};

// A product of groups, on the device. What a call is given may be changed before run().
template <class Int>
struct Groups {
  Groups(const std::vector<Sizes>& all, cublasOperation_t op_left, cublasOperation_t op_right,
         float beta_given = 0)
      : op_a(op_left), op_b(op_right), beta(beta_given), sizes(all) {
    for (const Sizes& s : sizes) {
      op_a == kN ? a.add(s.m, s.k) : a.add(s.k, s.m);
      op_b == kN ? b.add(s.k, s.n) : b.add(s.n, s.k);
      d.add(s.m, s.n);
    }
    a_values = random(static_cast<std::size_t>(a.size), 1);
    b_values = random(static_cast<std::size_t>(b.size), 2);
    d_values = random(static_cast<std::size_t>(d.size), 3);
    a_there.emplace(stored(a_values));
    b_there.emplace(stored(b_values));
    d_there.emplace(d_values);
    place(a, *a_there, a_arrays, CUDA_R_16BF, a_layout);
    place(b, *b_there, b_arrays, CUDA_R_16BF, b_layout);
    place(d, *d_there, d_arrays, CUDA_R_32F, d_layout);
    REQUIRE(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &kWorkspace, sizeof kWorkspace);
  }
  ~Groups() {
    cublasLtDestroy(handle);
    cublasLtMatmulDescDestroy(desc);
    cublasLtMatmulPreferenceDestroy(preference);
    for (const auto layout : {a_layout, b_layout, d_layout}) cublasLtMatrixLayoutDestroy(layout);
  }
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;

  // Where they are, and their rows, columns and leading dimensions.
  struct Arrays {
    std::optional<Array<void*>> at;
    std::optional<Array<Int>> rows, cols, ld;
  };
  template <class E>
  void place(const Kind& x, const Array<E>& values, Arrays& to, cudaDataType_t type,
             cublasLtMatrixLayout_t& layout) {
    std::vector<void*> at;
    for (const std::int64_t begin : x.begin) at.push_back(values + begin);
    const auto narrow = [](const std::vector<std::int64_t>& all) {
      return std::vector<Int>(all.begin(), all.end());
    };
    to.at.emplace(at);
    to.rows.emplace(narrow(x.rows));
    to.cols.emplace(narrow(x.cols));
    to.ld.emplace(narrow(x.ld));
    REQUIRE(cublasLtGroupedMatrixLayoutCreate(&layout, type, static_cast<int>(x.begin.size()),
                                              *to.rows, *to.cols, *to.ld) == CUBLAS_STATUS_SUCCESS);
    if (sizeof(Int) == 4) return;
    const int wide = CUBLASLT_INTEGER_WIDTH_64;
    for (const auto attribute : {CUBLASLT_GROUPED_MATRIX_LAYOUT_ROWS_COLS_ARRAY_INTEGER_WIDTH,
                                 CUBLASLT_GROUPED_MATRIX_LAYOUT_LD_ARRAY_INTEGER_WIDTH}) {
      CHECK(cublasLtMatrixLayoutSetAttribute(layout, attribute, &wide, sizeof wide) ==
            CUBLAS_STATUS_SUCCESS);
    }
  }

  cublasStatus_t find() {
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle, desc, a_layout, b_layout, d_layout, d_layout,
                                          preference, 1, &result, &found);
  }
  cublasStatus_t run(cudaStream_t stream = nullptr) {
    return cublasLtMatmul(handle, desc, &alpha, a_given != nullptr ? a_given : *a_arrays.at,
                          a_layout, *b_arrays.at, b_layout, &beta, *d_arrays.at, d_layout,
                          *d_arrays.at, d_layout, nullptr, workspace + workspace_from,
                          workspace_bytes, stream);
  }
  // Of plain loops, from what D was.
  std::vector<float> want() const {
    std::vector<float> out = d_values;
    for (std::size_t e = 0; e < sizes.size(); ++e) {
      const Sizes& s = sizes[e];
      for (int i = 0; i < s.m; ++i) {
        for (int j = 0; j < s.n; ++j) {
          double sum = 0;
          for (int k = 0; k < s.k; ++k) {
            sum += double{a_values[op_a == kN ? a.at(e, i, k) : a.at(e, k, i)]} *
                   double{b_values[op_b == kN ? b.at(e, k, j) : b.at(e, j, k)]};
          }
          float& to = out[d.at(e, i, j)];
          to = static_cast<float>(alpha * sum + (beta == 0 ? 0 : beta * to));
        }
      }
    }
    return out;
  }
  void check() const {
    const std::vector<float> expected = want(), got = d_there->values();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      REQUIRE(std::abs(got[i] - expected[i]) <= 1e-5F * (1 + std::abs(expected[i])));
    }
  }

  cublasOperation_t op_a, op_b;
  float alpha = 1, beta;
  std::vector<Sizes> sizes;
  Kind a, b, d;
  std::vector<float> a_values, b_values, d_values;
  std::optional<Array<bf16>> a_there, b_there;
  std::optional<Array<float>> d_there;
  Arrays a_arrays, b_arrays, d_arrays;
  const void* a_given = nullptr;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr, d_layout = nullptr;
  Array<char> workspace{2 * kWorkspace};
  std::size_t workspace_from = 0, workspace_bytes = kWorkspace;
};

const std::vector<Sizes> kSizes = {{16, 8, 24}, {8, 16, 0}, {0, 8, 8}, {8, 0, 16}, {24, 40, 8}};

}  // namespace

TEST_CASE("products of groups are those of plain loops, at either width of integers") {
  for (const auto op_a : {kN, kT}) {
    for (const auto op_b : {kN, kT}) {
      for (const float beta : {0.0F, -0.5F}) {
        Groups<int> narrow(kSizes, op_a, op_b, beta);
        narrow.alpha = 1.5F;
        CHECK(narrow.find() == CUBLAS_STATUS_SUCCESS);
        CHECK(narrow.run() == CUBLAS_STATUS_SUCCESS);
        narrow.check();
        Groups<std::int64_t> wide(kSizes, op_a, op_b, beta);
        CHECK(wide.run() == CUBLAS_STATUS_SUCCESS);
        wide.check();
      }
    }
  }
  // Depths that no column has may be any.
  Groups<int> odd({{16, 8, 3}, {8, 8, 1}}, kN, kT);
  CHECK(odd.run() == CUBLAS_STATUS_SUCCESS);
  odd.check();
}

TEST_CASE("as 13.2 does, groups of depth 0 are left as they were where that is asked for") {
  Settings old = settings();
  old.skips_empty_groups = true;
  const With with(old);
  Groups<int> groups({{8, 8, 8}, {8, 8, 0}}, kN, kN);
  CHECK(groups.run() == CUBLAS_STATUS_SUCCESS);
  const std::vector<float> got = groups.d_there->values();
  CHECK(got[groups.d.at(1, 2, 3)] == groups.d_values[groups.d.at(1, 2, 3)]);
  CHECK(got[groups.d.at(0, 2, 3)] != groups.d_values[groups.d.at(0, 2, 3)]);
}

TEST_CASE("sizes are those that the arrays have when the product is made") {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  {
    Groups<int> groups({{8, 8, 16}, {8, 8, 16}}, kN, kT);
    const auto set_depths = [&](int first, int second) {
      groups.sizes[0].k = first;
      groups.sizes[1].k = second;
      const int depths[] = {first, second};
      for (int* const to :
           {static_cast<int*>(*groups.a_arrays.cols), static_cast<int*>(*groups.b_arrays.cols)}) {
        cudaMemcpyAsync(to, depths, sizeof depths, cudaMemcpyHostToDevice, stream);
        cudaStreamSynchronize(stream);
      }
    };
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    CHECK(groups.run(stream) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    cudaGraphInstantiate(&ready, graph);
    for (const auto& [first, second] : {std::pair{16, 16}, {0, 9}, {5, 0}}) {
      set_depths(first, second);
      cudaGraphLaunch(ready, stream);
      groups.check();
    }
    cudaGraphExecDestroy(ready);
    cudaGraphDestroy(graph);

    Settings late = settings();
    late.deferred = true;
    const With with(late);
    set_depths(16, 16);
    CHECK(groups.run(stream) == CUBLAS_STATUS_SUCCESS);
    set_depths(2, 3);  // behind it in the stream
    groups.sizes[0].k = groups.sizes[1].k = 16;
    groups.check();
  }
  cudaStreamDestroy(stream);
}

TEST_CASE("a call that breaks what is asked is refused") {
  constexpr auto kInvalid = CUBLAS_STATUS_INVALID_VALUE;
  constexpr auto kUnsupported = CUBLAS_STATUS_NOT_SUPPORTED;
  using Given = Groups<int>;
  const auto check = [](cublasStatus_t status, const char* why, auto&& change) {
    Given g({{8, 8, 8}, {16, 8, 8}}, kN, kN);
    change(g);
    CAPTURE(why);
    CHECK(g.run() == status);
    CAPTURE(refusal());
    CHECK(holds(refusal(), std::string("[cublasLtMatmul] ") + why));
  };
  check(CUBLAS_STATUS_NOT_INITIALIZED, "no such handle", [](Given& g) {
    cublasLtDestroy(g.handle);
    g.handle = nullptr;
  });
  check(kInvalid, "A has no layout", [](Given& g) {
    cublasLtMatrixLayoutDestroy(g.a_layout);
    g.a_layout = nullptr;
  });
  check(kUnsupported, "B is not by columns", [](Given& g) {
    const int by_rows = CUBLASLT_ORDER_ROW;
    cublasLtMatrixLayoutSetAttribute(g.b_layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &by_rows, 4);
  });
  const auto layout_of = [](cublasLtMatrixLayout_t& layout, Given::Arrays& x, cudaDataType_t type,
                            int groups) {
    cublasLtMatrixLayoutDestroy(layout);
    cublasLtGroupedMatrixLayoutCreate(&layout, type, groups, *x.rows, *x.cols, *x.ld);
  };
  check(kInvalid, "C has 1 groups, where A has 2",
        [&](Given& g) { layout_of(g.d_layout, g.d_arrays, CUDA_R_32F, 1); });
  check(kUnsupported, "A and B are of bf16 here",
        [&](Given& g) { layout_of(g.b_layout, g.b_arrays, CUDA_R_32F, 2); });
  check(kInvalid, "the rows of A are no array of the device of 2 times 8 bytes", [](Given& g) {
    const int wide = CUBLASLT_INTEGER_WIDTH_64;
    cublasLtMatrixLayoutSetAttribute(
        g.a_layout, CUBLASLT_GROUPED_MATRIX_LAYOUT_ROWS_COLS_ARRAY_INTEGER_WIDTH, &wide, 4);
  });
  std::vector<void*> host(2);
  check(kInvalid, "the pointers of A are no array of the device",
        [&](Given& g) { g.a_given = host.data(); });
  check(kInvalid, "the algorithm needs a workspace of 1048576 bytes, and 1000 are given",
        [](Given& g) { g.workspace_bytes = 1000; });
  check(kInvalid, "the workspace is not that many bytes of the device, from a multiple of 256 on",
        [](Given& g) { g.workspace_from = 16; });

  Given g({{8, 8, 8}}, kN, kN);
  const int few = 8;
  CHECK(cublasLtMatmulPreferenceSetAttribute(g.preference,
                                             CUBLASLT_MATMUL_PREF_GROUPED_DESC_D_AVERAGE_ROWS, &few,
                                             sizeof few) == kInvalid);
  CHECK(holds(refusal(), "the attribute has 8 bytes, and 4 are given"));
  const std::size_t little = 1000;
  cublasLtMatmulPreferenceSetAttribute(g.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &little, sizeof little);
  CHECK(g.find() == kUnsupported);
  CHECK(holds(refusal(), "no algorithm does with 1000 bytes of workspace"));
  Settings changed = settings();
  changed.capability = 120;
  const With with(changed);
  CHECK(g.run() == kUnsupported);
  CHECK(holds(refusal(), "devices of compute capability 9.0, 10.x and 11.0 have grouped products"));
}

TEST_CASE("what only the arrays tell is an error of the product") {
  using Given = Groups<int>;
  const auto error = [](const std::vector<Sizes>& sizes, auto&& change) {
    Given g(sizes, kN, kN);
    change(g);
    return error_of([&] { g.run(); });
  };
  const auto put = [](auto& array, std::size_t at, auto value) {
    cudaMemcpy(static_cast<decltype(value)*>(*array) + at, &value, sizeof value,
               cudaMemcpyHostToDevice);
  };
  const std::vector<Sizes> two = {{8, 8, 8}, {16, 8, 8}};
  CHECK(error(two, [](Given&) {}) == "");
  CHECK(
      error({{8, 8, 8}, {12, 8, 8}}, [](Given&) {}) ==
      "[cublasLtMatmul] group 1: A, of 12 rows and ld 20, has columns of no multiple of 16 bytes.");
  CHECK(error(two, [&](Given& g) { put(g.b_arrays.ld, 1, 4); }) ==
        "[cublasLtMatmul] group 1: ldB is 4, where B, as it lies in memory, has 8 rows.");
  CHECK(error(two, [&](Given& g) { put(g.b_arrays.rows, 0, 16); }) ==
        "[cublasLtMatmul] group 0: B is [16, 8], where [8, 8] goes with the others.");
  CHECK(error(two, [&](Given& g) { put(g.d_arrays.cols, 0, -8); }) ==
        "[cublasLtMatmul] group 0: D has 8 rows and -8 columns.");
  CHECK(holds(
      error(two, [&](Given& g) { put(g.a_arrays.at, 0, static_cast<void*>(*g.a_there + 1)); }),
      "group 0: A of each batch must begin at a multiple of 16 bytes for these types."));
  CHECK(holds(error(two,
                    [&](Given& g) {
                      put(g.b_arrays.at, 1, static_cast<void*>(*g.b_there + g.b.size - 16));
                    }),
              "group 1: B is "));
  CHECK(holds(error(two, [&](Given& g) { put(g.d_arrays.at, 1, static_cast<void*>(*g.a_there)); }),
              "group 1: D"));
  NEEDS_OBSERVER
  CHECK(holds(error(two,
                    [&](Given& g) {
                      g.a_arrays.rows.emplace(std::size_t{2});
                      cublasLtMatrixLayoutDestroy(g.a_layout);
                      cublasLtGroupedMatrixLayoutCreate(&g.a_layout, CUDA_R_16BF, 2,
                                                        *g.a_arrays.rows, *g.a_arrays.cols,
                                                        *g.a_arrays.ld);
                    }),
              "[cublasLtMatmul] reads what nobody has written: the rows of A, at byte 0"));
}

TEST_CASE("functions are found by their names, where the library has them") {
  CHECK(cublaslt_symbol("cublasLtMatmul") == reinterpret_cast<void*>(&cublasLtMatmul));
  CHECK(cublaslt_symbol("cublasLtMatrixTransform") == nullptr);
  const auto with_version = [](int version, bool has) {
    Settings changed = settings();
    changed.cublaslt = version;
    changed.grouped_products = has;
    const With with(changed);
    return std::pair{cublaslt_symbol("cublasLtGetVersion") != nullptr,
                     cublaslt_symbol("cublasLtGroupedMatrixLayoutCreate") != nullptr};
  };
  CHECK(with_version(0, true) == std::pair{false, false});
  CHECK(with_version(130100, true) == std::pair{true, false});
  CHECK(with_version(130200, true) == std::pair{true, true});
  CHECK(with_version(131000, false) == std::pair{true, false});
}
