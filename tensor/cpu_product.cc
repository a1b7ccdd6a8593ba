#include "tensor/cpu_product.h"

#include <algorithm>

// Tiles are shared out among threads by the callers; Eigen must not do so again.
#define EIGEN_DONT_PARALLELIZE
// GCC 12 holds its own AVX-512 intrinsics for uninitialised where they are inlined (GCC bug
// 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "tensor/cpu_packed_product.h"
#include "tensor/storage.h"

namespace moegrad::cpu {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ConstMap = Eigen::Map<const RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class T>
using MutableMap = Eigen::Map<RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
ConstMap<T> map_of(Matrix<T> x, std::int64_t rows, std::int64_t cols) {
  return {x.data, x.transposed ? cols : rows, x.transposed ? rows : cols,
          Eigen::OuterStride<>(x.stride)};
}

template <class T>
void eigen_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta,
                   T* c, std::int64_t c_stride) {
  MutableMap<T> out(c, m, n, Eigen::OuterStride<>(c_stride));
  if (beta == T(0)) {
    out.setZero();
  } else if (beta != T(1)) {
    out *= beta;
  }
  const ConstMap<T> left = map_of(a, m, k);
  const ConstMap<T> right = map_of(b, k, n);
  if (a.transposed && b.transposed) {
    out.noalias() += left.transpose() * right.transpose();
  } else if (a.transposed) {
    out.noalias() += left.transpose() * right;
  } else if (b.transposed) {
    out.noalias() += left * right.transpose();
  } else {
    out.noalias() += left * right;
  }
}

template <class T>
void loop_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta,
                  T* c, std::int64_t c_stride) {
  const auto at = [](Matrix<T> x, std::int64_t row, std::int64_t col) {
    return x.transposed ? x.data[col * x.stride + row] : x.data[row * x.stride + col];
  };
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      T sum(0);
      for (std::int64_t l = 0; l < k; ++l) sum += at(a, i, l) * at(b, l, j);
      T& out = c[i * c_stride + j];
      out = beta == T(0) ? sum : sum + beta * out;
    }
  }
}

// A copy of the listed rows of x, `cols` long.
template <class T>
Matrix<T> without_list(Matrix<T> x, std::int64_t rows, std::int64_t cols, PoolVector<T>& memory) {
  if (x.rows == nullptr) return x;
  memory.resize(static_cast<std::size_t>(rows * (cols + kPad)));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(x.data + x.rows[r] * x.stride, cols, memory.data() + r * (cols + kPad));
  }
  return {memory.data(), cols + kPad, x.transposed};
}

}  // namespace

template <class T>
ProductBy product_by(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kLoops = 4 * 4 * 4;  // up to here anything else takes longer to start
  if (m * n * k <= kLoops) return ProductBy::loops;
  return m == 1 || n == 1 ? ProductBy::eigen : ProductBy::packed;
}

template <class T>
void product(ProductBy by, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
             T beta, T* c, std::int64_t c_stride) {
  if (m == 0 || n == 0) return;
  if (by == ProductBy::packed) return packed_product(m, n, k, a, b, beta, c, c_stride);
  PoolVector<T> copy_a, copy_b;
  a = without_list(a, a.transposed ? k : m, a.transposed ? m : k, copy_a);
  b = without_list(b, b.transposed ? n : k, b.transposed ? k : n, copy_b);
  if (by == ProductBy::loops) return loop_product(m, n, k, a, b, beta, c, c_stride);
  eigen_product(m, n, k, a, b, beta, c, c_stride);
}

template ProductBy product_by<float>(std::int64_t, std::int64_t, std::int64_t);
template ProductBy product_by<double>(std::int64_t, std::int64_t, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<float>,
                      Matrix<float>, float, float*, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<double>,
                      Matrix<double>, double, double*, std::int64_t);

}  // namespace moegrad::cpu
