#include "cuda/cublas.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "cuda/stream.h"
#ifdef MOEGRAD_CUDA_EMULATED
#include "cuda/emulator/cublas.h"
#else
#include <cublas_v2.h>
#endif

namespace moegrad::cuda {
namespace {

Products from_environment() {
  const char* const value = std::getenv("MOEGRAD_CUDA_PRODUCTS");
  const std::string_view name = value == nullptr ? "own" : value;
  if (name == "own") return Products::own;
  if (name == "cublas") return Products::cublas;
  if (name == "loop") return Products::loop;
  if (name == "grouped") return Products::grouped;
  fail("cuda", "MOEGRAD_CUDA_PRODUCTS is '{}'. Use own, cublas, loop or grouped.", name);
}
// The same, if it can be.
Products possible(Products who) {
  if (who != Products::grouped) return who;
  const std::string trouble = grouped_trouble();
  if (trouble.empty()) return who;
  fail("cuda", "MOEGRAD_CUDA_PRODUCTS is 'grouped', and {}. Use own, cublas or loop.", trouble);
}
Products& chosen() {
  static Products who = possible(from_environment());
  return who;
}

void require_done(cublasStatus_t status, const char* operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(operation, "cuBLAS answers {}. MOEGRAD_CUDA_PRODUCTS=own does without it.",
       cublasGetStatusName(status));
}

// One handle with the one stream. cuBLAS forgets its workspace with each cublasSetStream.
cublasHandle_t handle(const char* operation) {
  static const cublasHandle_t handle = [&] {
    const Workspace space = cublas_workspace(operation);
    cublasHandle_t made = nullptr;
    require_done(cublasCreate(&made), operation);
    require_done(cublasSetStream(made, stream()), operation);
    require_done(cublasSetWorkspace(made, space.data, space.bytes), operation);
    return made;
  }();
  return handle;
}

struct Types {
  cudaDataType_t factor, result;
  cublasComputeType_t sums;
};
Types types_of(Numbers numbers) {
  switch (numbers) {
    case Numbers::f32:
      return {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case Numbers::tf32:
      return {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
    case Numbers::bf16:
      return {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    default:
      return {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F};
  }
}

bool begins_well(const void* data, std::int64_t step, std::int64_t size) {
  return (reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(step * size)) % 16 ==
         0;
}

}  // namespace

Products products() { return chosen(); }
void set_products(Products who) { chosen() = possible(who); }

Workspace cublas_workspace(const char* operation) {
  static const Workspace space = [&] {
    Workspace made = {nullptr, std::size_t{32} << 20};
    require(cudaMalloc(&made.data, made.bytes), operation);
    return made;
  }();
  return space;
}

bool fits_cublas(const Gemm& g) {
  for (const std::int64_t n : {g.batch, g.rows, g.cols, g.depth, g.left.pitch, g.right.pitch}) {
    if (n > std::numeric_limits<int>::max()) return false;
  }
  if (g.numbers == Numbers::f32 || g.numbers == Numbers::f64) return true;
  const std::int64_t size = g.numbers == Numbers::tf32 ? 4 : 2;
  return begins_well(g.left.data, g.left.step, size) &&
         begins_well(g.right.data, g.right.step, size) &&
         begins_well(g.to, g.batch > 1 ? g.rows * g.cols : 0, 4);
}

// By rows is by columns of the transpose: to^T = right^T left^T.
void multiply_by_cublas(const char* operation, const Gemm& g) {
  const Types types = types_of(g.numbers);
  const auto as_int = [](std::int64_t n) { return static_cast<int>(n); };
  const auto pitch = [](const GemmFactor& x) {
    return static_cast<int>(std::max<std::int64_t>(1, x.pitch));  // 1 of rows of nothing
  };
  const auto op = [](const GemmFactor& x) { return x.by_rows ? CUBLAS_OP_N : CUBLAS_OP_T; };
  const float one = 1.0F;
  const float beta = static_cast<float>(g.beta);
  const double wide_one = 1.0;
  const bool wide = g.numbers == Numbers::f64;
  const void* const alpha_at = wide ? static_cast<const void*>(&wide_one) : &one;
  const void* const beta_at = wide ? static_cast<const void*>(&g.beta) : &beta;
  note_launch(operation);
  require_done(
      cublasGemmStridedBatchedEx(
          handle(operation), op(g.right), op(g.left), as_int(g.cols), as_int(g.rows),
          as_int(g.depth), alpha_at, g.right.data, types.factor, pitch(g.right), g.right.step,
          g.left.data, types.factor, pitch(g.left), g.left.step, beta_at, g.to, types.result,
          as_int(g.cols), g.rows * g.cols, as_int(g.batch), types.sums, CUBLAS_GEMM_DEFAULT),
      operation);
}

}  // namespace moegrad::cuda
