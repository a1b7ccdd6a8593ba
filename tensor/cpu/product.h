#pragma once

#include <cstdint>

namespace moegrad::cpu {

// A matrix in memory: row r starts at data + r * stride, or at data + rows[r] * stride where rows
// are listed; read as its transpose where told.
template <class T>
struct Matrix {
  const T* data;
  std::int64_t stride;
  bool transposed = false;
  const std::int32_t* rows = nullptr;
};

// Elements to leave between the end of a row of a workspace and the next one. Without it rows lie a
// power of two apart in most models and share the sets of the cache.
inline constexpr std::int64_t kPad = 16;

// Products that are added up before their sum goes to memory. In f32 a sum of so many equal numbers
// keeps 3e-6; where it is one of very many sums, kSumBlock (cpu_sum.h) is the depth to take.
inline constexpr std::int64_t kDepth = 256;

// What can compute a product: plain loops, Eigen (short single rows and columns), our own
// thin_product (long ones) and packed_product.
enum class ProductBy { loops, eigen, thin, packed };

// The one place that decides. The crossovers are those of `moegrad_bench
// --benchmark_filter=product-by`.
template <class T>
ProductBy product_by(std::int64_t m, std::int64_t n, std::int64_t k);

// c [m, n] = op(a) [m, k] op(b) [k, n] + beta c, on the calling thread alone; rows of c are
// c_stride elements apart. c is not read when beta is 0. T is float or double. Of a long k the sums
// of blocks are added in f64, at every value of `by` but loops and eigen.
template <class T>
void product(ProductBy by, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
             T beta, T* c, std::int64_t c_stride, std::int64_t depth = kDepth);

template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta, T* c,
             std::int64_t c_stride, std::int64_t depth = kDepth) {
  product(product_by<T>(m, n, k), m, n, k, a, b, beta, c, c_stride, depth);
}

}  // namespace moegrad::cpu
