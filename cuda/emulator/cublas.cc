#include "cuda/emulator/cublas.h"

#include <cstdint>
#include <set>

#include "cuda/emulator/device.h"
#include "cuda/emulator/matrix_product.h"
#include "cuda/emulator/memory.h"

using namespace cuda_emulator;

struct cublasContext {
  cudaStream_t stream = nullptr;
  bool workspace = false;  // the caller's own
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};

namespace {

std::set<cublasHandle_t>& handles() {
  static auto* const handles = new std::set<cublasHandle_t>;
  return *handles;
}

struct Scalars {
  const void *alpha, *beta;
};

cublasStatus_t multiply(const Call& call, cublasHandle_t handle, Product p, const Scalars& scalars,
                        int m, int n, int k, int op_a, int op_b) {
  const auto refuse = [&](const Trouble& t) { return call.refuse(t.status, t.why); };
  if (!handles().contains(handle)) {
    return refuse({CUBLAS_STATUS_NOT_INITIALIZED, "the handle is not what cublasCreate returned"});
  }
  if (m < 0 || n < 0 || k < 0 || p.batches < 0) {
    return refuse(invalid("sizes are negative: m " + text(m) + ", n " + text(n) + ", k " + text(k) +
                          ", batches " + text(p.batches)));
  }
  if (op_a < 0 || op_a > 2 || op_b < 0 || op_b > 2) {
    return refuse(invalid("operations are CUBLAS_OP_N, CUBLAS_OP_T or CUBLAS_OP_C"));
  }
  p.transposes_a = op_a != CUBLAS_OP_N;
  p.transposes_b = op_b != CUBLAS_OP_N;
  set_shape(p, m, n, k);
  for (const Matrix* const x : {&p.a, &p.b, &p.c}) {
    if (const Trouble t = check_leading(*x); !t.why.empty()) return refuse(t);
  }
  if (scalars.alpha == nullptr || scalars.beta == nullptr) {
    return refuse(invalid("alpha or beta is the null pointer"));
  }
  const std::size_t wide = p.c.type == CUDA_R_64F ? 8 : 4;
  for (const void* const at : {scalars.alpha, scalars.beta}) {
    const bool on_device = handle->pointers == CUBLAS_POINTER_MODE_DEVICE;
    if (on_device ? memory::whole(at, wide) : !memory::holds(at)) continue;
    return refuse(invalid(on_device ? "alpha and beta must be on the device in this pointer mode"
                                    : "alpha and beta must be on the host in this pointer mode"));
  }
  if (m == 0 || n == 0 || p.batches == 0) return CUBLAS_STATUS_SUCCESS;
  const bool aligned = p.tf32 || p.a.type == CUDA_R_16BF;
  if (const Trouble t = check_places(p, aligned); !t.why.empty()) return refuse(t);

  CUstream_st* const stream = of(handle->stream);
  if (stream == nullptr) return refuse(invalid("the handle's stream is no more"));
  if (stream->capture != nullptr && !handle->workspace) {
    stream->invalid = true;
    return refuse({CUBLAS_STATUS_ALLOC_FAILED,
                   "a captured call needs a workspace: call cublasSetWorkspace after each "
                   "cublasSetStream"});
  }
  if (handle->pointers == CUBLAS_POINTER_MODE_DEVICE) {
    p.device_alpha = scalars.alpha;
    p.device_beta = scalars.beta;
  } else if (wide == 8) {
    p.alpha = *static_cast<const double*>(scalars.alpha);
    p.beta = *static_cast<const double*>(scalars.beta);
  } else {
    p.alpha = *static_cast<const float*>(scalars.alpha);
    p.beta = *static_cast<const float*>(scalars.beta);
  }
  give(*stream, [p] { run(p); });
  return CUBLAS_STATUS_SUCCESS;
}

Matrix matrix(const char* name, const void* at, cudaDataType type, int ld, long long stride = 0) {
  auto* const bytes = static_cast<std::byte*>(const_cast<void*>(at));
  return {name, bytes, type, 0, 0, ld, stride};
}

bool supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
  if (a != b) return false;
  if (compute == CUBLAS_COMPUTE_64F) return a == CUDA_R_64F && c == CUDA_R_64F;
  if (a == CUDA_R_32F) return c == CUDA_R_32F;
  return a == CUDA_R_16BF && (c == CUDA_R_16BF || c == CUDA_R_32F) &&
         compute != CUBLAS_COMPUTE_32F_FAST_TF32;
}

cublasStatus_t handled(const Call& call, cublasHandle_t handle) {
  if (handles().contains(handle)) return CUBLAS_STATUS_SUCCESS;
  return call.refuse(CUBLAS_STATUS_NOT_INITIALIZED, "the handle is not what cublasCreate returned");
}

}  // namespace

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "an unknown status";
}

cublasStatus_t cublasCreate(cublasHandle_t* out) {
  const Call call({.call = "cublasCreate"});
  *out = nullptr;
  if (spoils_capture()) {
    return call.refuse(CUBLAS_STATUS_ALLOC_FAILED, "a stream captures, and this allocates");
  }
  *out = new cublasContext;
  handles().insert(*out);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  const Call call({.call = "cublasDestroy", .waits = true});
  if (const cublasStatus_t status = handled(call, handle); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  finish_all();
  handles().erase(handle);
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  const Call call({.call = "cublasSetStream"});
  const cublasStatus_t status = handled(call, handle);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (of(stream) == nullptr) return call.refuse(CUBLAS_STATUS_INVALID_VALUE, "no such stream");
  handle->stream = stream;
  handle->workspace = false;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t* out) {
  const Call call({.call = "cublasGetStream"});
  const cublasStatus_t status = handled(call, handle);
  if (status == CUBLAS_STATUS_SUCCESS) *out = handle->stream;
  return status;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  const Call call({.call = "cublasSetWorkspace", .bytes = bytes});
  const cublasStatus_t status = handled(call, handle);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (bytes > 0 && !memory::whole(workspace, bytes)) {
    return call.refuse(CUBLAS_STATUS_INVALID_VALUE,
                       "the workspace is not that many bytes of the device");
  }
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) {
    return call.refuse(CUBLAS_STATUS_INVALID_VALUE,
                       "the workspace must begin at a multiple of 256 bytes");
  }
  handle->workspace = bytes > 0;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  const Call call({.call = "cublasSetMathMode"});
  const cublasStatus_t status = handled(call, handle);
  if (status == CUBLAS_STATUS_SUCCESS) handle->math = mode;
  return status;
}
cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
  const Call call({.call = "cublasSetPointerMode"});
  const cublasStatus_t status = handled(call, handle);
  if (status == CUBLAS_STATUS_SUCCESS) handle->pointers = mode;
  return status;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                           int m, int n, int k, const float* alpha, const float* a, int lda,
                           const float* b, int ldb, const float* beta, float* c, int ldc) {
  const Call call({.call = "cublasSgemm"});
  Product p{};
  p.call = "cublasSgemm";
  p.a = matrix("A", a, CUDA_R_32F, lda);
  p.b = matrix("B", b, CUDA_R_32F, ldb);
  p.c = matrix("C", c, CUDA_R_32F, ldc);
  p.tf32 = handles().contains(handle) && handle->math == CUBLAS_TF32_TENSOR_OP_MATH;
  p.batches = 1;
  return multiply(call, handle, p, {alpha, beta}, m, n, k, op_a, op_b);
}
cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                           int m, int n, int k, const double* alpha, const double* a, int lda,
                           const double* b, int ldb, const double* beta, double* c, int ldc) {
  const Call call({.call = "cublasDgemm"});
  Product p{};
  p.call = "cublasDgemm";
  p.a = matrix("A", a, CUDA_R_64F, lda);
  p.b = matrix("B", b, CUDA_R_64F, ldb);
  p.c = matrix("C", c, CUDA_R_64F, ldc);
  p.batches = 1;
  return multiply(call, handle, p, {alpha, beta}, m, n, k, op_a, op_b);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType a_type,
                                          int lda, long long stride_a, const void* b,
                                          cudaDataType b_type, int ldb, long long stride_b,
                                          const void* beta, void* c, cudaDataType c_type, int ldc,
                                          long long stride_c, int batches,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
  const Call call({.call = "cublasGemmStridedBatchedEx"});
  if (!supported(a_type, b_type, c_type, compute)) {
    return call.refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                       "these types do not go together: A and B both f32, f64 or bf16; sums in f64 "
                       "for f64, else in f32; C as A, or f32 of bf16");
  }
  Product p{};
  p.call = "cublasGemmStridedBatchedEx";
  p.a = matrix("A", a, a_type, lda, stride_a);
  p.b = matrix("B", b, b_type, ldb, stride_b);
  p.c = matrix("C", c, c_type, ldc, stride_c);
  p.tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
           (compute == CUBLAS_COMPUTE_32F && a_type == CUDA_R_32F && handles().contains(handle) &&
            handle->math == CUBLAS_TF32_TENSOR_OP_MATH);
  p.batches = batches;
  return multiply(call, handle, p, {alpha, beta}, m, n, k, op_a, op_b);
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType a_type, int lda, const void* b, cudaDataType b_type,
                            int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                                    b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute, algorithm);
}
