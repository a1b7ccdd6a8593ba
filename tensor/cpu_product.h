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

// What can compute a product: plain loops, Eigen (single rows and columns), our own packed_product.
enum class ProductBy { loops, eigen, packed };

// The one place that decides. The crossovers are those of `moegrad_bench
// --benchmark_filter=product-by`.
template <class T>
ProductBy product_by(std::int64_t m, std::int64_t n, std::int64_t k);

// c [m, n] = op(a) [m, k] op(b) [k, n] + beta c, on the calling thread alone; rows of c are
// c_stride elements apart. c is not read when beta is 0. T is float or double.
template <class T>
void product(ProductBy by, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
             T beta, T* c, std::int64_t c_stride);

template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta, T* c,
             std::int64_t c_stride) {
  product(product_by<T>(m, n, k), m, n, k, a, b, beta, c, c_stride);
}

}  // namespace moegrad::cpu
