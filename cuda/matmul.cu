// Products of matrices, of one pair, of batches, and of rows in groups.
#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "cuda/products.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;

// The group of a row; `count` for none.
__device__ std::int64_t group_of(const std::int32_t* offsets, std::int64_t count,
                                 std::int64_t row) {
  std::int64_t low = 0;
  std::int64_t high = count;  // offsets[low] <= row < offsets[high + 1], if it is of any
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (offsets[middle + 1] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <class T>
void grouped_bias_as(const T* x, const T* bias, const std::int32_t* offsets, std::int64_t groups,
                     std::int64_t cols, std::int64_t numel, T* y) {
  each("grouped_bias", numel, [=] __device__(std::int64_t i) {
    const std::int64_t e = group_of(offsets, groups, i / cols);
    y[i] = e < groups ? x[i] + bias[e * cols + i % cols] : x[i];
  });
}

template <class T>
void grouped_sum_as(const T* x, const std::int32_t* offsets, std::int64_t cols, std::int64_t numel,
                    T* to) {
  each("grouped_sum", numel, [=] __device__(std::int64_t i) {
    const std::int64_t e = i / cols;
    double sum = 0.0;
    for (std::int64_t row = offsets[e]; row < offsets[e + 1]; ++row) {
      sum += static_cast<double>(x[row * cols + i % cols]);
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
  const cuda::Groups groups = {in<std::int32_t>(offsets), offsets.numel() - 1};
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
  const cuda::Groups groups = {in<std::int32_t>(offsets), offsets.numel() - 1};
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
    grouped_bias_as(in<T>(x), in<T>(bias), in<std::int32_t>(offsets), offsets.numel() - 1,
                    y.size(1), y.numel(), out<T>(y));
  });
}

void CudaKernels::grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& t) {
  with_floating(t.dtype(), "grouped_sum", [&](auto zero) {
    using T = decltype(zero);
    grouped_sum_as(in<T>(x), in<std::int32_t>(offsets), t.size(1), t.numel(), out<T>(t));
  });
}

}  // namespace moegrad
