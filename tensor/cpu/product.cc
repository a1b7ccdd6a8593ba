#include "tensor/cpu/product.h"

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

#include "tensor/cpu/packed_product.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/vector.h"
#include "tensor/storage.h"

namespace moegrad::cpu {
namespace {

// Up to this k Eigen's single rows and columns are exact enough.
constexpr std::int64_t kShortThin = 256;
// Up to this k packed_product is; behind it pieces of kLongPiece are added in f64.
constexpr std::int64_t kLongProduct = 16384;
constexpr std::int64_t kLongPiece = 1024;

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

template <class T>
void put(double sum, T beta, T& out) {
  out = static_cast<T>(beta == T(0) ? sum : sum + static_cast<double>(beta * out));
}

// c_i = <row i of x, v> + beta c_i, a few rows at a time; c_i is `step` elements from the next.
template <class T>
void rows_by_vector(std::int64_t rows, std::int64_t k, const T* x, std::int64_t stride, const T* v,
                    T beta, T* c, std::int64_t step) {
  constexpr int kAtOnce = 8;
  constexpr std::int64_t n = kVectorLanes<T>;
  for (std::int64_t i = 0; i < rows; i += kAtOnce) {
    const T* row[kAtOnce];
    for (int r = 0; r < kAtOnce; ++r) row[r] = x + std::min(i + r, rows - 1) * stride;
    double total[kAtOnce] = {};
    const auto add = [&](int r, Vector<T> sum) {
      T lanes[n];
      store(lanes, sum);
      for (const T lane : lanes) total[r] += static_cast<double>(lane);
    };
    std::int64_t l = 0;
    while (l + n <= k) {
      const std::int64_t end = std::min(k / n * n, l + kSumBlock * n);
      Vector<T> sum[kAtOnce] = {};
      for (; l < end; l += n) {
        const Vector<T> factor = load(v + l);
#pragma GCC unroll 8
        for (int r = 0; r < kAtOnce; ++r) sum[r] += load(row[r] + l) * factor;
      }
      for (int r = 0; r < kAtOnce; ++r) add(r, sum[r]);
    }
    for (int r = 0; r < std::min<std::int64_t>(kAtOnce, rows - i); ++r) {
      for (std::int64_t p = l; p < k; ++p) total[r] += static_cast<double>(row[r][p] * v[p]);
      put(total[r], beta, c[(i + r) * step]);
    }
  }
}

// The same of one row: its sum in several parts side by side.
template <class T>
void row_by_vector(std::int64_t k, const T* x, const T* v, T beta, T& c) {
  put(static_cast<double>(lane_sum<T>(k, [=](std::int64_t l) { return x[l] * v[l]; })), beta, c);
}

// c_j = sum over l of v_l x [l, j] + beta c_j, eight rows at a time.
template <class T>
void vector_by_rows(std::int64_t cols, std::int64_t k, const T* x, std::int64_t stride, const T* v,
                    T beta, T* c, std::int64_t step) {
  PoolVector<T> memory(static_cast<std::size_t>(cols));
  T* __restrict const sums = memory.data();
  LongSums<T> blocked(sums, cols, k);
  std::int64_t l = 0;
  for (; l + 8 <= k; l += 8) {
    const T* const r = x + l * stride;
    const T* const w = v + l;
    for (std::int64_t j = 0; j < cols; ++j) {
      const T* const at = r + j;
      sums[j] +=
          ((w[0] * at[0] + w[1] * at[stride]) + (w[2] * at[2 * stride] + w[3] * at[3 * stride])) +
          ((w[4] * at[4 * stride] + w[5] * at[5 * stride]) +
           (w[6] * at[6 * stride] + w[7] * at[7 * stride]));
    }
    blocked.added();
  }
  for (; l < k; ++l) {
    for (std::int64_t j = 0; j < cols; ++j) sums[j] += v[l] * x[l * stride + j];
  }
  blocked.finish();
  for (std::int64_t j = 0; j < cols; ++j) put(static_cast<double>(sums[j]), beta, c[j * step]);
}

// A product of one row or one column. What lies along k in memory is gone through in sixteen sums
// side by side, else a strip of results at a time.
template <class T>
void thin_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta,
                  T* c, std::int64_t c_stride) {
  const bool one_row = m == 1;
  const Matrix<T> vector = one_row ? a : b;
  const Matrix<T> matrix = one_row ? b : a;
  PoolVector<T> copy;
  const T* v = vector.data;
  if (vector.transposed == one_row && vector.stride != 1) {
    copy.resize(static_cast<std::size_t>(k));
    for (std::int64_t l = 0; l < k; ++l) copy[static_cast<std::size_t>(l)] = v[l * vector.stride];
    v = copy.data();
  }
  const std::int64_t results = one_row ? n : m;
  const std::int64_t step = one_row ? 1 : c_stride;
  const bool along_k = matrix.transposed == one_row;
  if (results == 1 && (along_k || matrix.stride == 1)) {
    return row_by_vector(k, matrix.data, v, beta, *c);
  }
  const auto run = along_k ? rows_by_vector<T> : vector_by_rows<T>;
  run(results, k, matrix.data, matrix.stride, v, beta, c, step);
}

// x from place l of the inner axis on, which are rows in memory where told.
template <class T>
Matrix<T> inner_from(Matrix<T> x, std::int64_t l, bool rows) {
  if (!rows) {
    x.data += l;
  } else if (x.rows != nullptr) {
    x.rows += l;
  } else {
    x.data += l * x.stride;
  }
  return x;
}

// A product with a long k, in pieces that are added in f64.
template <class T>
void long_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T beta,
                  T* c, std::int64_t c_stride) {
  PoolVector<double> total(static_cast<std::size_t>(m * n), 0.0);
  PoolVector<T> piece(static_cast<std::size_t>(m * n));
  for (std::int64_t l = 0; l < k; l += kLongPiece) {
    packed_product(m, n, std::min(kLongPiece, k - l), inner_from(a, l, a.transposed),
                   inner_from(b, l, !b.transposed), T(0), piece.data(), n, kSumBlock);
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += static_cast<double>(piece[i]);
  }
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      put(total[static_cast<std::size_t>(i * n + j)], beta, c[i * c_stride + j]);
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
  if (m != 1 && n != 1) return ProductBy::packed;
  return k > kShortThin ? ProductBy::thin : ProductBy::eigen;
}

template <class T>
void product(ProductBy by, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
             T beta, T* c, std::int64_t c_stride, std::int64_t depth) {
  if (m == 0 || n == 0) return;
  if (by == ProductBy::packed) {
    if (k > kLongProduct) return long_product(m, n, k, a, b, beta, c, c_stride);
    return packed_product(m, n, k, a, b, beta, c, c_stride, depth);
  }
  PoolVector<T> copy_a, copy_b;
  a = without_list(a, a.transposed ? k : m, a.transposed ? m : k, copy_a);
  b = without_list(b, b.transposed ? n : k, b.transposed ? k : n, copy_b);
  if (by == ProductBy::loops) return loop_product(m, n, k, a, b, beta, c, c_stride);
  if (by == ProductBy::thin) return thin_product(m, n, k, a, b, beta, c, c_stride);
  eigen_product(m, n, k, a, b, beta, c, c_stride);
}

template ProductBy product_by<float>(std::int64_t, std::int64_t, std::int64_t);
template ProductBy product_by<double>(std::int64_t, std::int64_t, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<float>,
                      Matrix<float>, float, float*, std::int64_t, std::int64_t);
template void product(ProductBy, std::int64_t, std::int64_t, std::int64_t, Matrix<double>,
                      Matrix<double>, double, double*, std::int64_t, std::int64_t);

}  // namespace moegrad::cpu
