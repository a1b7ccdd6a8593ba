#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Products by cuBLAS, where they are asked for.
namespace moegrad::cuda {

// Who multiplies: own, the kernels of this library, whose sums have the same order everywhere;
// cublas, what is not in groups; loop, groups too, one after the other, where they have kLoopRows
// rows or more on average: their sizes are read on the host, which waits for them; or grouped, groups
// too where maths() is bf16, in one call that reads their sizes on the device.
// MOEGRAD_CUDA_PRODUCTS=own|cublas|loop|grouped says it before the first product; own where it is not
// set. Grouped where it cannot be used is an Error.
enum class Products { own, cublas, loop, grouped };
inline constexpr std::int64_t kLoopRows = 1024;
Products products();
void set_products(Products who);
// Why grouped cannot be used, after a test with empty groups; empty: it can. Waits.
std::string grouped_trouble();

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

// The device's memory that cuBLAS works in, for what is done on the one stream.
struct Workspace {
  void* data;
  std::size_t bytes;
};
Workspace cublas_workspace(const char* operation);

}  // namespace moegrad::cuda
