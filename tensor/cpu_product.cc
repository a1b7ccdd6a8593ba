#include "tensor/cpu_product.h"

#include <algorithm>
#include <type_traits>

// Tiles are shared out among threads by the callers; Eigen must not do so again.
#define EIGEN_DONT_PARALLELIZE
// GCC 12 holds its own AVX-512 intrinsics for uninitialised where they are inlined (GCC bug 105593).
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

#ifdef MOEGRAD_HAVE_DNNL
#include <dnnl.h>
#include <omp.h>

#include "tensor/error.h"
#endif

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

#ifdef MOEGRAD_HAVE_DNNL

// oneDNN splits a product over as many threads as OpenMP would give it, which changes its sums.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

void dnnl_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<float> a, Matrix<float> b,
                  float beta, float* c, std::int64_t c_stride) {
  const OneThread guard;
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0F, a.data,
                 a.stride, b.data, b.stride, beta, c, c_stride);
  if (status != dnnl_success) {
    fail("matmul", "oneDNN refused a product of {}x{}x{} with status {}. Report this as a bug.", m,
         n, k, static_cast<int>(status));
  }
}

#endif

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

// Ours was measured on AVX2 alone.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kPacked = true;
#else
constexpr bool kPacked = false;
#endif
#ifdef MOEGRAD_HAVE_DNNL
constexpr bool kOneDnn = true;
#else
constexpr bool kOneDnn = false;
#endif

}  // namespace

template <class T>
ProductBy product_by(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kLoops = 4 * 4 * 4;     // up to here anything else takes longer to start
  constexpr std::int64_t kSmall = 24 * 24 * 24;  // up to here oneDNN takes longer than Eigen
  constexpr std::int64_t kNarrow = 8;  // up to here half of a block of ours or more is idle
  const std::int64_t size = m * n * k;
  if (size <= kLoops) return ProductBy::loops;
  const bool onednn = kOneDnn && std::is_same_v<T, float> && size > kSmall;
  const bool thin = m == 1 || n <= (onednn ? kNarrow : 1);
  if (kPacked && !thin) return ProductBy::packed;
  return onednn ? ProductBy::onednn : ProductBy::eigen;
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
#ifdef MOEGRAD_HAVE_DNNL
  if constexpr (std::is_same_v<T, float>) {
    if (by == ProductBy::onednn) return dnnl_product(m, n, k, a, b, beta, c, c_stride);
  }
#endif
  eigen_product(m, n, k, a, b, beta, c, c_stride);
}

template ProductBy product_by<float>(std::int64_t, std::int64_t, std::int64_t);
template ProductBy product_by<double>(std::int64_t, std::int64_t, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<float>,
                      Matrix<float>, float, float*, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<double>,
                      Matrix<double>, double, double*, std::int64_t);

}  // namespace moegrad::cpu
