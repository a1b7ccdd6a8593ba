#include "cuda/emulator/cublas.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "cuda/emulator/bf16.h"
#include "cuda/emulator/device.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/mma.h"
#include "cuda/emulator/observer.h"

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

// What is wrong with a call: its status and why.
struct Trouble {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::string why;
};
Trouble invalid(std::string why) { return {CUBLAS_STATUS_INVALID_VALUE, std::move(why)}; }
std::string text(long long n) { return std::to_string(n); }

std::size_t size_of(cudaDataType type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

// By columns; `stride` elements from one of a batch to the next.
struct Matrix {
  const char* name;
  std::byte* at;
  cudaDataType type;
  std::int64_t rows, columns, ld;
  long long stride;

  std::size_t size() const { return size_of(type); }
  std::byte* column(std::int64_t batch, std::int64_t j) const {
    return at + (batch * stride + j * ld) * static_cast<std::int64_t>(size());
  }
  std::size_t column_bytes() const { return static_cast<std::size_t>(rows) * size(); }
  template <class T>
  T get(std::int64_t batch, std::int64_t i, std::int64_t j) const {
    const std::byte* const place = column(batch, j) + i * static_cast<std::int64_t>(size());
    if (type == CUDA_R_64F) return static_cast<T>(*reinterpret_cast<const double*>(place));
    if (type == CUDA_R_32F) return static_cast<T>(*reinterpret_cast<const float*>(place));
    return static_cast<T>(static_cast<float>(*reinterpret_cast<const bf16*>(place)));
  }
  template <class T>
  void set(std::int64_t batch, std::int64_t i, std::int64_t j, T value) const {
    std::byte* const place = column(batch, j) + i * static_cast<std::int64_t>(size());
    if (type == CUDA_R_64F) *reinterpret_cast<double*>(place) = static_cast<double>(value);
    if (type == CUDA_R_32F) *reinterpret_cast<float*>(place) = static_cast<float>(value);
    if (type == CUDA_R_16BF) *reinterpret_cast<bf16*>(place) = bf16(static_cast<float>(value));
  }
};

struct Product {
  const char* call;
  Matrix a, b, c;
  bool transposes_a, transposes_b, tf32;
  std::int64_t k;
  int batches;
  // The numbers, or where they will be on the device.
  double alpha = 0, beta = 0;
  const void *device_alpha = nullptr, *device_beta = nullptr;
};

// --- what is checked

Trouble check_leading(const Matrix& x) {
  if (x.ld >= std::max<std::int64_t>(1, x.rows)) return {};
  return invalid("ld" + std::string(x.name) + " is " + text(x.ld) + ", where " + x.name +
                 ", as it lies in memory, has " + text(x.rows) + " rows");
}

Trouble check_memory(const Matrix& x, int batches, bool aligned) {
  const std::string name = x.name;
  if (x.at == nullptr) return invalid(name + " is the null pointer");
  const std::size_t alignment = aligned ? 16 : x.size();
  if (reinterpret_cast<std::uintptr_t>(x.at) % alignment != 0 ||
      (aligned && batches > 1 && x.stride * static_cast<long long>(x.size()) % 16 != 0)) {
    return invalid(name + " of each batch must begin at a multiple of " +
                   text(static_cast<long long>(alignment)) + " bytes for these types");
  }
  for (int batch = 0; batch < batches; batch += std::max(1, batches - 1)) {
    const auto bytes = static_cast<std::size_t>((x.columns - 1) * x.ld + x.rows) * x.size();
    const std::byte* const begin = x.column(batch, 0);
    if (memory::whole(begin, bytes)) continue;
    return {CUBLAS_STATUS_EXECUTION_FAILED,
            name + (batch > 0 ? " of the last batch" : "") + " is " +
                text(static_cast<long long>(bytes)) + " bytes, " +
                (memory::holds(begin) ? "and begins at " + memory::place_of(begin)
                                      : "not memory of the device")};
  }
  return {};
}

// Whether columns of one share bytes with columns of the other.
bool overlap(const Matrix& x, std::int64_t x_batch, const Matrix& y, std::int64_t y_batch) {
  for (std::int64_t i = 0, j = 0; i < x.columns && j < y.columns;) {
    const std::byte *const p = x.column(x_batch, i), *const q = y.column(y_batch, j);
    if (p < q + y.column_bytes() && q < p + x.column_bytes()) return true;
    if (p < q) {
      ++i;
    } else {
      ++j;
    }
  }
  return false;
}

Trouble check_overlap(const Product& p) {
  for (int batch = 0; batch < p.batches; ++batch) {
    for (const Matrix* const x : {&p.a, &p.b}) {
      if (p.k > 0 && overlap(p.c, batch, *x, batch)) {
        return invalid("C overlaps " + std::string(x->name) + ". Give C memory of its own");
      }
    }
    if (batch > 0 && overlap(p.c, batch, p.c, batch - 1)) {
      return invalid("C overlaps C of the next batch: the stride is " + text(p.c.stride));
    }
  }
  return {};
}

// --- what is done

// Throws where nobody has written what is read.
void check_written(const Product& p, const Matrix& x) {
  for (int batch = 0; batch < p.batches; ++batch) {
    for (std::int64_t j = 0; j < x.columns; ++j) {
      const void* const at = observer::first_unwritten(x.column(batch, j), x.column_bytes());
      if (at == nullptr) continue;
      throw Error("[" + std::string(p.call) + "] reads what nobody has written: " + x.name +
                  ", at " + memory::place_of(at) + ". Write it first.");
    }
  }
}

template <class T>
void multiply(const Product& p, T alpha, T beta) {
  const bool sums = alpha != 0 && p.k > 0;
  if (sums) {
    check_written(p, p.a);
    check_written(p, p.b);
  }
  if (beta != 0) check_written(p, p.c);
  const auto in = [&](T x) { return p.tf32 ? static_cast<T>(to_tf32(static_cast<float>(x))) : x; };
  for (int batch = 0; batch < p.batches; ++batch) {
    for (std::int64_t j = 0; j < p.c.columns; ++j) {
      for (std::int64_t i = 0; i < p.c.rows; ++i) {
        T sum = 0;
        for (std::int64_t k = 0; sums && k < p.k; ++k) {
          const T a = p.transposes_a ? p.a.get<T>(batch, k, i) : p.a.get<T>(batch, i, k);
          const T b = p.transposes_b ? p.b.get<T>(batch, j, k) : p.b.get<T>(batch, k, j);
          sum = std::fma(in(a), in(b), sum);
        }
        // C is not read where beta is 0: it may be NaN.
        const T old = beta == 0 ? T{0} : beta * p.c.get<T>(batch, i, j);
        p.c.set<T>(batch, i, j, sums ? std::fma(alpha, sum, old) : old);
      }
      observer::written(p.c.column(batch, j), p.c.column_bytes());
    }
  }
}

void run(const Product& p) {
  const memory::Open open;
  const bool wide = p.c.type == CUDA_R_64F;
  const auto number = [&](double value, const void* at) {
    if (at == nullptr) return value;
    return wide ? *static_cast<const double*>(at) : double{*static_cast<const float*>(at)};
  };
  const double alpha = number(p.alpha, p.device_alpha), beta = number(p.beta, p.device_beta);
  if (wide) {
    multiply<double>(p, alpha, beta);
  } else {
    multiply<float>(p, static_cast<float>(alpha), static_cast<float>(beta));
  }
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
  p.k = k;
  p.transposes_a = op_a != CUBLAS_OP_N;
  p.transposes_b = op_b != CUBLAS_OP_N;
  p.a.rows = p.transposes_a ? k : m;
  p.a.columns = p.transposes_a ? m : k;
  p.b.rows = p.transposes_b ? n : k;
  p.b.columns = p.transposes_b ? k : n;
  p.c.rows = m;
  p.c.columns = n;
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
  for (const Matrix* const x : {&p.a, &p.b, &p.c}) {
    if (x != &p.c && k == 0) continue;
    if (const Trouble t = check_memory(*x, p.batches, aligned); !t.why.empty()) return refuse(t);
  }
  if (const Trouble t = check_overlap(p); !t.why.empty()) return refuse(t);

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
