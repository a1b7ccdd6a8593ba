// Products of matrices, of one pair, of batches, and of rows in groups.
#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "cuda/products.h"

namespace moegrad {
namespace {

using cuda::each_cell;
using cuda::in;
using cuda::out;

cuda::Groups groups_of(const Tensor& offsets) {
  return {in<std::int32_t>(offsets), offsets.numel() - 1};
}

template <class T>
void grouped_bias_as(const T* x, const T* bias, const cuda::Groups& groups, std::int64_t rows,
                     std::int64_t cols, T* y) {
  each_cell("grouped_bias", rows, cols,
            [=] __device__(std::int64_t i, std::int64_t row, std::int64_t col) {
              const std::int64_t e = groups.of(row);
              y[i] = e < groups.count ? x[i] + bias[e * cols + col] : x[i];
            });
}

template <class T>
void grouped_sum_as(const T* x, const cuda::Groups& groups, std::int64_t cols, T* to) {
  each_cell("grouped_sum", groups.count, cols,
            [=] __device__(std::int64_t i, std::int64_t e, std::int64_t col) {
              double sum = 0.0;
              for (std::int64_t row = groups.offsets[e]; row < groups.offsets[e + 1]; ++row) {
                sum += static_cast<double>(x[row * cols + col]);
              }
              to[i] = static_cast<T>(sum);
            });
}

// [rows, cols] or [batch, rows, cols]; those of one matrix are shared by the batch.
template <class T>
cuda::Factor<T> factor(const Tensor& t, bool transposed) {
  const std::int64_t stored_cols = t.shape().back();
  const std::int64_t step = t.rank() == 3 ? t.size(1) * t.size(2) : 0;
  return transposed ? cuda::Factor<T>{in<T>(t), step, 1, stored_cols}
                    : cuda::Factor<T>{in<T>(t), step, stored_cols, 1};
}

template <class T>
cuda::Rows<T> rows_of(const Tensor& x) {
  return {in<T>(x), x.size(0), x.size(1)};
}

}  // namespace

void CudaKernels::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                         double beta, const Tensor& t) {
  with_floating(t.dtype(), "matmul", [&](auto zero) {
    using T = decltype(zero);
    cuda::multiply<T>("matmul", {factor<T>(a, transpose_a), factor<T>(b, transpose_b),
                                 t.rank() == 3 ? t.size(0) : 1, t.size(-2), t.size(-1),
                                 a.size(transpose_a ? -2 : -1), static_cast<T>(beta), out<T>(t),
                                 !transpose_a, !transpose_b});
  });
}

void CudaKernels::grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w,
                                 const Tensor& offsets, const Tensor& y) {
  const cuda::Groups groups = groups_of(offsets);
  with_floating(y.dtype(), "grouped_matmul", [&](auto zero) {
    using T = decltype(zero);
    cuda::multiply<T>(
        "grouped_matmul",
        cuda::Linear<T>{groups, y.size(0), rows_of<T>(x), factor<T>(w, transpose_w), nullptr,
                        y.size(1), x.size(1), false, out<T>(y), !transpose_w});
    cuda::clear_rest("grouped_matmul", groups, y.size(0), y.size(1), out<T>(y));
  });
}

void CudaKernels::grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                                const Tensor& dw) {
  const cuda::Groups groups = groups_of(offsets);
  with_floating(dw.dtype(), "grouped_outer", [&](auto zero) {
    using T = decltype(zero);
    cuda::multiply<T>("grouped_outer",
                      cuda::Outer<T>{groups, x.size(0), rows_of<T>(x), rows_of<T>(dy), dw.size(1),
                                     dw.size(2), false, out<T>(dw)});
  });
}

void CudaKernels::grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                               const Tensor& y) {
  with_floating(y.dtype(), "grouped_bias", [&](auto zero) {
    using T = decltype(zero);
    grouped_bias_as(in<T>(x), in<T>(bias), groups_of(offsets), y.size(0), y.size(1), out<T>(y));
  });
}

void CudaKernels::grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& t) {
  with_floating(t.dtype(), "grouped_sum", [&](auto zero) {
    using T = decltype(zero);
    grouped_sum_as(in<T>(x), groups_of(offsets), t.size(1), out<T>(t));
  });
}

}  // namespace moegrad
