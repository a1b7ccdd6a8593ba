// The products of cuBLAS beside plain loops, and what it asks of its callers.
#include <cmath>
#include <random>

#include "cuda/emulator/bf16.h"
#include "cuda/emulator/cublas.h"
#include "cuda/emulator/mma.h"
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

struct Handle {
  cublasHandle_t handle = nullptr;
  Handle() { REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS); }
  ~Handle() { cublasDestroy(handle); }
  operator cublasHandle_t() const { return handle; }  // NOLINT: it is passed like one
};

template <class T>
std::vector<T> random(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<T> out;
  for (std::size_t i = 0; i < n; ++i) {
    out.push_back(T(static_cast<float>(std::normal_distribution<double>()(engine))));
  }
  return out;
}
double value(float x) { return x; }
double value(double x) { return x; }
double value(bf16 x) { return static_cast<float>(x); }

struct Sizes {
  int m, n, k, lda, ldb, ldc;
  cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  int batches = 1;
  double alpha = 1, beta = 0;
};

// C of a plain loop, in double, of inputs that are rounded first.
template <class T, class C>
std::vector<double> plain(const Sizes& s, const std::vector<T>& a, const std::vector<T>& b,
                          const std::vector<C>& c, std::size_t of_a, std::size_t of_b,
                          std::size_t of_c, bool tf32) {
  const auto in = [&](T x) {
    return tf32 ? double{to_tf32(static_cast<float>(value(x)))} : value(x);
  };
  std::vector<double> out;
  for (const C x : c) out.push_back(value(x));
  for (std::size_t batch = 0; batch < static_cast<std::size_t>(s.batches); ++batch) {
    for (int j = 0; j < s.n; ++j) {
      for (int i = 0; i < s.m; ++i) {
        double sum = 0;
        for (int k = 0; k < s.k; ++k) {
          const int at_a = s.op_a == CUBLAS_OP_N ? i + k * s.lda : k + i * s.lda;
          const int at_b = s.op_b == CUBLAS_OP_N ? k + j * s.ldb : j + k * s.ldb;
          sum += in(a[batch * of_a + static_cast<std::size_t>(at_a)]) *
                 in(b[batch * of_b + static_cast<std::size_t>(at_b)]);
        }
        double& to = out[batch * of_c + static_cast<std::size_t>(i + j * s.ldc)];
        to = s.alpha * sum + (s.beta == 0 ? 0 : s.beta * to);
      }
    }
  }
  return out;
}

enum class Call { plain, ex, batched };

template <class T, class C>
void check(const Sizes& s, Call call, cublasComputeType_t compute, double tolerance) {
  const Handle handle;
  const auto columns = [](bool transposed, int plain_columns, int rows) {
    return static_cast<std::size_t>(transposed ? rows : plain_columns);
  };
  const std::size_t of_a =
      columns(s.op_a != CUBLAS_OP_N, s.k, s.m) * static_cast<std::size_t>(s.lda);
  const std::size_t of_b =
      columns(s.op_b != CUBLAS_OP_N, s.n, s.k) * static_cast<std::size_t>(s.ldb);
  const std::size_t of_c = static_cast<std::size_t>(s.n * s.ldc);
  const auto batches = static_cast<std::size_t>(s.batches);
  const std::vector<T> a = random<T>(of_a * batches, 1), b = random<T>(of_b * batches, 2);
  const std::vector<C> c = random<C>(of_c * batches, 3);
  const Array<T> a_there(a), b_there(b);
  const Array<C> c_there(c);
  const float alpha_f = static_cast<float>(s.alpha), beta_f = static_cast<float>(s.beta);
  const bool wide = std::is_same_v<T, double>;
  const void* const alpha = wide ? static_cast<const void*>(&s.alpha) : &alpha_f;
  const void* const beta = wide ? static_cast<const void*>(&s.beta) : &beta_f;
  const auto type = [](std::size_t size) {
    return size == 8 ? CUDA_R_64F : size == 4 ? CUDA_R_32F : CUDA_R_16BF;
  };
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  if constexpr (std::is_same_v<T, float>) {
    if (call == Call::plain) {
      status = cublasSgemm(handle, s.op_a, s.op_b, s.m, s.n, s.k, &alpha_f, a_there, s.lda, b_there,
                           s.ldb, &beta_f, c_there.template as<float>(), s.ldc);
    }
  } else if constexpr (std::is_same_v<T, double>) {
    if (call == Call::plain) {
      status = cublasDgemm(handle, s.op_a, s.op_b, s.m, s.n, s.k, &s.alpha, a_there, s.lda, b_there,
                           s.ldb, &s.beta, c_there.template as<double>(), s.ldc);
    }
  }
  if (call == Call::ex) {
    status = cublasGemmEx(handle, s.op_a, s.op_b, s.m, s.n, s.k, alpha, a_there, type(sizeof(T)),
                          s.lda, b_there, type(sizeof(T)), s.ldb, beta, c_there, type(sizeof(C)),
                          s.ldc, compute, CUBLAS_GEMM_DEFAULT);
  }
  if (call == Call::batched) {
    status = cublasGemmStridedBatchedEx(
        handle, s.op_a, s.op_b, s.m, s.n, s.k, alpha, a_there, type(sizeof(T)), s.lda,
        static_cast<long long>(of_a), b_there, type(sizeof(T)), s.ldb, static_cast<long long>(of_b),
        beta, c_there, type(sizeof(C)), s.ldc, static_cast<long long>(of_c), s.batches, compute,
        CUBLAS_GEMM_DEFAULT);
  }
  CAPTURE(refusal());
  REQUIRE(status == CUBLAS_STATUS_SUCCESS);
  const std::vector<double> want =
      plain(s, a, b, c, of_a, of_b, of_c, compute == CUBLAS_COMPUTE_32F_FAST_TF32);
  const std::vector<C> got = c_there.values();
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    REQUIRE(std::abs(value(got[i]) - want[i]) <= tolerance * (1 + std::abs(want[i])));
  }
}

}  // namespace

TEST_CASE("products are those of plain loops") {
  for (const auto op_a : {CUBLAS_OP_N, CUBLAS_OP_T}) {
    for (const auto op_b : {CUBLAS_OP_N, CUBLAS_OP_C}) {
      const Sizes s = {5, 7, 3, 9, 11, 6, op_a, op_b, 1, 1.5, 0.5};
      check<float, float>(s, Call::plain, CUBLAS_COMPUTE_32F, 1e-5);
      check<double, double>(s, Call::plain, CUBLAS_COMPUTE_64F, 1e-14);
      check<float, float>(s, Call::ex, CUBLAS_COMPUTE_32F, 1e-5);
      check<float, float>(s, Call::ex, CUBLAS_COMPUTE_32F_FAST_TF32, 1e-5);
      check<double, double>(s, Call::ex, CUBLAS_COMPUTE_64F, 1e-14);
      check<bf16, bf16>(s, Call::ex, CUBLAS_COMPUTE_32F, 1e-2);
      check<bf16, float>(s, Call::ex, CUBLAS_COMPUTE_32F, 1e-5);
      const Sizes many = {8, 4, 6, 8, 8, 8, op_a, op_b, 3, 1, 0};
      check<float, float>(many, Call::batched, CUBLAS_COMPUTE_32F, 1e-5);
      check<bf16, bf16>(many, Call::batched, CUBLAS_COMPUTE_32F, 1e-2);
      check<double, double>(many, Call::batched, CUBLAS_COMPUTE_64F, 1e-14);
    }
  }
  check<float, float>({1, 1, 1, 1, 1, 1}, Call::plain, CUBLAS_COMPUTE_32F, 1e-6);
  check<float, float>({4, 3, 0, 4, 1, 4, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 2}, Call::plain,
                      CUBLAS_COMPUTE_32F, 1e-6);
}

TEST_CASE("beta 0 overwrites what is no number; empty products touch nothing") {
  const Handle handle;
  const Array<float> a(std::vector<float>{1, 2, 3, 4}), b(std::vector<float>{1, 0, 0, 1});
  const Array<float> c(std::size_t{4});  // NaN
  const float one = 1, zero = 0;
  const auto run = [&](int m, int n, int k, const float* beta) {
    return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, a, 2, b, 2, beta, c, 2);
  };
  CHECK(run(0, 2, 2, &one) == CUBLAS_STATUS_SUCCESS);
  CHECK(run(2, 0, 2, &one) == CUBLAS_STATUS_SUCCESS);
  CHECK(std::isnan(c.values()[0]));
  if (kernels_are_observed()) {
    CHECK(error_of([&] { run(2, 2, 2, &one); }) ==
          "[cublasSgemm] reads what nobody has written: C, at byte 0 of the 16 bytes of an "
          "allocation. Write it first.");
  }
  CHECK(run(2, 2, 2, &zero) == CUBLAS_STATUS_SUCCESS);
  CHECK(c.values() == a.values());
  CHECK(run(2, 2, 2, &one) == CUBLAS_STATUS_SUCCESS);
  CHECK(c.values() == std::vector<float>{2, 4, 6, 8});
}

TEST_CASE("preconditions") {
  const Handle handle;
  const Array<float> a(random<float>(64, 1)), b(random<float>(64, 2)), c(random<float>(64, 3));
  std::vector<float> host(64);
  const float one = 1, zero = 0;
  struct Given {
    int m = 4, n = 4, k = 4, lda = 4, ldb = 4, ldc = 4;
    const float *a, *b;
    float* c;
    cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    const float *alpha, *beta;
    cublasHandle_t handle;
  };
  const auto check = [&](cublasStatus_t status, const char* why, auto&& change) {
    Given g{.a = a, .b = b, .c = c, .alpha = &one, .beta = &zero, .handle = handle};
    change(g);
    CAPTURE(why);
    CAPTURE(refusal());
    CHECK(cublasSgemm(g.handle, g.op_a, g.op_b, g.m, g.n, g.k, g.alpha, g.a, g.lda, g.b, g.ldb,
                      g.beta, g.c, g.ldc) == status);
    if (status != CUBLAS_STATUS_SUCCESS) {
      CHECK(holds(refusal(), std::string("[cublasSgemm] ") + why));
    }
  };
  constexpr auto kInvalid = CUBLAS_STATUS_INVALID_VALUE;
  check(CUBLAS_STATUS_SUCCESS, "", [](Given&) {});
  check(CUBLAS_STATUS_NOT_INITIALIZED, "the handle is not what cublasCreate returned",
        [](Given& g) { g.handle = nullptr; });
  check(kInvalid, "sizes are negative: m -1", [](Given& g) { g.m = -1; });
  check(kInvalid, "ldA is 3, where A, as it lies in memory, has 4 rows",
        [](Given& g) { g.lda = 3; });
  check(kInvalid, "ldA is 4, where A, as it lies in memory, has 5 rows", [](Given& g) {
    g.op_a = CUBLAS_OP_T;
    g.k = g.ldb = 5;
  });
  check(kInvalid, "ldB is 2", [](Given& g) { g.ldb = 2; });
  check(kInvalid, "ldC is 0, where C", [](Given& g) { g.m = g.ldc = 0, g.ldc = 0; });
  check(kInvalid, "A is the null pointer", [](Given& g) { g.a = nullptr; });
  check(kInvalid, "alpha or beta is the null pointer", [](Given& g) { g.beta = nullptr; });
  check(kInvalid, "alpha and beta must be on the host", [&](Given& g) { g.alpha = a; });
  check(CUBLAS_STATUS_EXECUTION_FAILED, "B is 64 bytes, not memory of the device",
        [&](Given& g) { g.b = host.data(); });
  check(CUBLAS_STATUS_EXECUTION_FAILED,
        "A is 64 bytes, and begins at byte 208 of the 256 bytes of an allocation",
        [](Given& g) { g.a += 52; });
  check(CUBLAS_STATUS_EXECUTION_FAILED, "C is ", [](Given& g) { g.ldc = 21; });
  check(kInvalid, "C overlaps A. Give C memory of its own", [](Given& g) { g.a = g.c; });
  check(kInvalid, "C overlaps B", [](Given& g) { g.b = g.c + 3; });
  // Beside each other in one matrix of 8 rows.
  check(CUBLAS_STATUS_SUCCESS, "", [](Given& g) {
    g.a = g.c + 4;
    g.lda = g.ldc = 8;
  });
  check(kInvalid, "C overlaps A", [](Given& g) {
    g.a = g.c + 3;
    g.lda = g.ldc = 8;
  });
}

TEST_CASE("types and alignment of the extended calls") {
  const Handle handle;
  const Array<bf16> a(random<bf16>(128, 1)), b(random<bf16>(128, 2)), c(random<bf16>(128, 3));
  const float one = 1, zero = 0;
  const auto run = [&](int off, cudaDataType type, long long stride_c,
                       cublasComputeType_t compute = CUBLAS_COMPUTE_32F) {
    return cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, a + off,
                                      CUDA_R_16BF, 4, 16, b, type, 4, 16, &zero, c, CUDA_R_16BF, 4,
                                      stride_c, 2, compute, CUBLAS_GEMM_DEFAULT);
  };
  CHECK(run(0, CUDA_R_16BF, 16) == CUBLAS_STATUS_SUCCESS);
  CHECK(run(1, CUDA_R_16BF, 16) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(holds(refusal(), "A of each batch must begin at a multiple of 16 bytes for these types"));
  CHECK(run(0, CUDA_R_16BF, 20) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(run(0, CUDA_R_16BF, 8) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(holds(refusal(), "C overlaps C of the next batch: the stride is 8"));
  CHECK(run(0, CUDA_R_32F, 16) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(run(0, CUDA_R_16BF, 16, CUBLAS_COMPUTE_64F) == CUBLAS_STATUS_NOT_SUPPORTED);
  CHECK(holds(refusal(), "these types do not go together"));
  CHECK(std::string(cublasGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED)) ==
        "CUBLAS_STATUS_NOT_SUPPORTED");
}

TEST_CASE("products are work of the handle's stream") {
  const Handle handle;
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  const Array<float> a(std::vector<float>{2}), b(std::vector<float>{3}), c(std::vector<float>{0});
  const Array<float> numbers(std::vector<float>{10, 1});
  const Array<char> workspace(std::size_t{1024});
  float one = 1, zero = 0;
  const auto run = [&] {
    return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a, 1, b, 1, &zero, c, 1);
  };
  CHECK(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
  {
    Settings late = settings();
    late.deferred = true;
    const With with(late);
    CHECK(run() == CUBLAS_STATUS_SUCCESS);
    one = 5;  // has been read
    CHECK(c.values()[0] == 0);
    cudaStreamSynchronize(stream);
    CHECK(c.values()[0] == 6);
  }
  one = 1;
  const auto capture = [&](cublasStatus_t want) {
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    CHECK(run() == want);
    const bool captured = cudaStreamEndCapture(stream, &graph) == cudaSuccess;
    CHECK(captured == (want == CUBLAS_STATUS_SUCCESS));
    if (captured) {
      cudaGraphExec_t ready = nullptr;
      cudaMemset(c, 0, 4);
      cudaGraphInstantiate(&ready, graph);
      cudaGraphLaunch(ready, stream);
      CHECK(c.values()[0] == 6);
      cudaGraphExecDestroy(ready);
    }
    cudaGraphDestroy(graph);
    cudaGetLastError();
  };
  capture(CUBLAS_STATUS_ALLOC_FAILED);
  CHECK(cublasSetWorkspace(handle, workspace, 1024) == CUBLAS_STATUS_SUCCESS);
  capture(CUBLAS_STATUS_SUCCESS);
  CHECK(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
  capture(CUBLAS_STATUS_ALLOC_FAILED);
  CHECK(cublasSetWorkspace(handle, workspace + 16, 1000) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(holds(refusal(), "the workspace must begin at a multiple of 256 bytes"));
  CHECK(cublasSetWorkspace(handle, workspace, 2000) == CUBLAS_STATUS_INVALID_VALUE);

  CHECK(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
  CHECK(run() == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(holds(refusal(), "alpha and beta must be on the device in this pointer mode"));
  CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, numbers, a, 1, b, 1, numbers + 1, c,
                    1) == CUBLAS_STATUS_SUCCESS);
  CHECK(c.values()[0] == 66);
  CHECK(cublasDestroy(nullptr) == CUBLAS_STATUS_NOT_INITIALIZED);
  cublasSetStream(handle, nullptr);
  cudaStreamDestroy(stream);
}

TEST_CASE("the math mode rounds to tf32") {
  const Handle handle;
  const float fine = 1 + std::ldexp(1.0F, -12);
  const Array<float> a(std::vector<float>{fine}), b(std::vector<float>{1}), c(std::size_t{1});
  const float one = 1, zero = 0;
  for (const bool tf32 : {false, true}) {
    cublasSetMathMode(handle, tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH);
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a, 1, b, 1, &zero, c, 1);
    CHECK(c.values()[0] == (tf32 ? 1.0F : fine));
  }
}
