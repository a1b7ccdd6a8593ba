#include "cuda/cublaslt.h"

#include <memory>

#include "cuda/cublas.h"
#include "cuda/stream.h"
#ifdef MOEGRAD_CUDA_EMULATED
#include "cuda/emulator/cublaslt.h"
#else
#include <cublasLt.h>
#include <cublas_v2.h>
#include <dlfcn.h>
#endif

namespace moegrad::cuda {
namespace {

#ifdef MOEGRAD_CUDA_EMULATED
void* symbol(const char* name) { return cuda_emulator::cublaslt_symbol(name); }
#else
// cuBLAS has loaded it.
void* symbol(const char* name) {
  static const std::string file = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  static void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_NOLOAD);
  return library == nullptr ? nullptr : dlsym(library, name);
}
#endif

// What headers of cuBLAS before 13.2 do not have.
using CreateGroupedLayout = cublasStatus_t (*)(cublasLtMatrixLayout_t*, cudaDataType_t, int,
                                               const void*, const void*, const void*);
constexpr auto kAverageDepth = static_cast<cublasLtMatmulPreferenceAttributes_t>(13);
constexpr auto kAverageRows = static_cast<cublasLtMatmulPreferenceAttributes_t>(14);
constexpr auto kAverageCols = static_cast<cublasLtMatmulPreferenceAttributes_t>(15);

struct Library {
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmulDescCreate) create_desc;
  decltype(&cublasLtMatmulDescDestroy) destroy_desc;
  decltype(&cublasLtMatmulDescSetAttribute) set_desc;
  CreateGroupedLayout create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatmulAlgoGetHeuristic) find;
  decltype(&cublasLtMatmul) multiply;
};

// `missing`: the first name that the library does not have; null: it has them all.
Library look_up(const char*& missing) {
  Library l{};
  missing = nullptr;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol(name));
    if (function == nullptr && missing == nullptr) missing = name;
  };
  find(l.version, "cublasLtGetVersion");
  find(l.create, "cublasLtCreate");
  find(l.create_desc, "cublasLtMatmulDescCreate");
  find(l.destroy_desc, "cublasLtMatmulDescDestroy");
  find(l.set_desc, "cublasLtMatmulDescSetAttribute");
  find(l.create_layout, "cublasLtGroupedMatrixLayoutCreate");
  find(l.destroy_layout, "cublasLtMatrixLayoutDestroy");
  find(l.create_preference, "cublasLtMatmulPreferenceCreate");
  find(l.destroy_preference, "cublasLtMatmulPreferenceDestroy");
  find(l.set_preference, "cublasLtMatmulPreferenceSetAttribute");
  find(l.find, "cublasLtMatmulAlgoGetHeuristic");
  find(l.multiply, "cublasLtMatmul");
  return l;
}

// Of use once cublaslt_trouble() has found none.
const Library& library() {
  static const Library library = [] {
    const char* missing = nullptr;
    return look_up(missing);
  }();
  return library;
}

// The first status that is not a success.
class Steps {
 public:
  explicit operator bool() const { return status_ == CUBLAS_STATUS_SUCCESS; }
  template <class F, class... A>
  void operator()(F* call, const A&... a) {
    if (*this) status_ = call(a...);
  }
  void unless(bool done) {
    if (*this && !done) status_ = CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const char* trouble() const { return *this ? nullptr : cublasGetStatusName(status_); }

 private:
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
};

// Something that the library creates, `create(&x, a...)`, and destroys.
template <class T>
class Created {
 public:
  template <class... A>
  Created(Steps& steps, cublasStatus_t (*destroy)(T), cublasStatus_t (*create)(T*, A...),
          std::type_identity_t<A>... a)
      : destroy_(destroy) {
    steps(create, &x_, a...);
  }
  ~Created() {
    if (x_ != nullptr) destroy_(x_);
  }
  Created(const Created&) = delete;
  Created& operator=(const Created&) = delete;
  operator T() const { return x_; }  // NOLINT: it is passed like one

 private:
  T x_ = nullptr;
  cublasStatus_t (*destroy_)(T);
};

std::string version_text(std::size_t version) {
  return fmt::format("{}.{}", version / 10000, version / 100 % 100);
}

}  // namespace

// 13.2 leaves the weight gradients of empty groups as they were, and 13.4 is the first for Hopper.
// From 13.7 on one of the algorithms for compute capability 10.3 and its successors spoils results
// (pull request 3475 of NVIDIA's TransformerEngine).
std::string cublaslt_trouble() {
  constexpr std::size_t kFirst = 130400;
  constexpr std::size_t kSpoilt = 130700;
  const char* missing = nullptr;
  const Library l = look_up(missing);
  if (l.version == nullptr) return "cuBLASLt is not loaded";
  const std::size_t version = l.version();
  const std::string name = "cuBLASLt is " + version_text(version);
  if (version < kFirst) {
    return name + ", whose grouped products are missing or wrong; those of " +
           version_text(kFirst) + " are right";
  }
  if (missing != nullptr) return name + ", which has no " + missing;
  (void)stream();  // there is a device
  cudaDeviceProp device;
  require(cudaGetDeviceProperties(&device, 0), "cuda");
  const auto capability = fmt::format("{}.{}", device.major, device.minor);
  const bool has = capability == "9.0" || device.major == 10 || capability == "11.0";
  if (!has) {
    return "this device, of compute capability " + capability +
           ", is none of 9.0, 10.x and 11.0, which have grouped products";
  }
  if (device.major == 10 && device.minor > 0 && version >= kSpoilt) {
    return name + ", which is known to spoil grouped products from " + version_text(kSpoilt) +
           " on where the compute capability is " + capability;
  }
  return {};
}

const char* multiply_by_cublaslt(const char* operation, const GroupedGemm& g) {
  const Library& l = library();
  Steps steps;
  static cublasLtHandle_t handle = nullptr;
  if (handle == nullptr) steps(l.create, &handle);
  const Workspace space = cublas_workspace(operation);
  const auto layout = [&](cudaDataType_t type, bool transposes, const std::int32_t* rows,
                          const std::int32_t* cols, const std::int32_t* pitch) {
    return Created<cublasLtMatrixLayout_t>(steps, l.destroy_layout, l.create_layout, type, g.groups,
                                           transposes ? cols : rows, transposes ? rows : cols,
                                           pitch);
  };
  const auto left = layout(CUDA_R_16BF, g.transposes_left, g.rows, g.depth, g.left_pitch);
  const auto right = layout(CUDA_R_16BF, g.transposes_right, g.depth, g.cols, g.right_pitch);
  const auto to = layout(CUDA_R_32F, false, g.rows, g.cols, g.to_pitch);

  const Created<cublasLtMatmulDesc_t> desc(steps, l.destroy_desc, l.create_desc, CUBLAS_COMPUTE_32F,
                                           CUDA_R_32F);
  const auto op = [&](cublasLtMatmulDescAttributes_t attribute, bool transposes) {
    const cublasOperation_t value = transposes ? CUBLAS_OP_T : CUBLAS_OP_N;
    steps(l.set_desc, desc, attribute, &value, sizeof value);
  };
  op(CUBLASLT_MATMUL_DESC_TRANSA, g.transposes_left);
  op(CUBLASLT_MATMUL_DESC_TRANSB, g.transposes_right);

  const Created<cublasLtMatmulPreference_t> preference(steps, l.destroy_preference,
                                                       l.create_preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    static_assert(sizeof value == 8);
    steps(l.set_preference, preference, attribute, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, space.bytes);
  prefer(kAverageRows, g.average_rows);
  prefer(kAverageCols, g.average_cols);
  prefer(kAverageDepth, g.average_depth);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  steps(l.find, handle, desc, left, right, to, to, preference, 1, &best, &found);
  steps.unless(found == 1);

  const float one = 1.0F;
  note_launch(operation);
  steps(l.multiply, handle, desc, &one, g.left, left, g.right, right, &g.beta, g.to, to,
        const_cast<void**>(g.to), to, &best.algo, space.data, space.bytes, stream());
  return steps.trouble();
}

}  // namespace moegrad::cuda
