#pragma once

#include <cstdint>

// Products by cuBLAS, where they are asked for.
namespace moegrad::cuda {

// Who multiplies: own, the kernels of this library, whose sums have the same order everywhere;
// cublas, what is not in groups; or loop, groups too, one after the other, where they have
// kLoopRows rows or more on average: their sizes are read on the host, which waits for them.
// MOEGRAD_CUDA_PRODUCTS=own|cublas|loop says it before the first product; own where it is not set.
enum class Products { own, cublas, loop };
inline constexpr std::int64_t kLoopRows = 1024;
Products products();
void set_products(Products who);

// A factor by rows, or where not by_rows its transpose is; `pitch` elements from one row to the next,
// `step` from one matrix to the next.
struct GemmFactor {
  const void* data;
  bool by_rows;
  std::int64_t pitch, step;
};
enum class Numbers { f32, tf32, bf16, f64 };  // of factors; f32 is rounded to TF32, bf16 is stored

// to [batch, rows, cols] = left right + beta to, all by rows, of f32 or f64.
struct Gemm {
  Numbers numbers;
  GemmFactor left, right;
  std::int64_t batch, rows, cols, depth;
  double beta;
  void* to;
};
// Whether cuBLAS can: sizes of 32 bits, and matrices of tf32 and bf16 that begin at multiples of 16
// bytes.
bool fits_cublas(const Gemm& g);
void multiply_by_cublas(const char* operation, const Gemm& g);

}  // namespace moegrad::cuda
