#include "tensor/cpu_product.h"

// Tiles are shared out among threads by the callers; Eigen must not do so again.
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

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

}  // namespace

void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<float> a, Matrix<float> b,
             float beta, float* c, std::int64_t c_stride) {
  if (m == 0 || n == 0) return;
#ifdef MOEGRAD_HAVE_DNNL
  constexpr std::int64_t kSmall = 32 * 32 * 32;  // below this Eigen starts sooner
  if (m * n * k > kSmall) {
    dnnl_product(m, n, k, a, b, beta, c, c_stride);
    return;
  }
#endif
  eigen_product(m, n, k, a, b, beta, c, c_stride);
}

void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<double> a, Matrix<double> b,
             double beta, double* c, std::int64_t c_stride) {
  if (m == 0 || n == 0) return;
  eigen_product(m, n, k, a, b, beta, c, c_stride);
}

}  // namespace moegrad::cpu
