// Softmax and its relatives along the middle axis of [outer, n, inner]; cross-entropy.

#include <cmath>
#include <limits>
#include <type_traits>

#include "tensor/cpu_index.h"
#include "tensor/cpu_kernels.h"
#include "tensor/cpu_parallel.h"
#include "tensor/cpu_sum.h"

namespace moegrad {
namespace {

using One = std::integral_constant<std::int64_t, 1>;

// Calls f(line, first, step) for each line along the axis: its elements are first + j * step. The
// step of the innermost axis is a constant, for the sake of the loops.
template <class F>
void for_strided_lines(AxisView view, F&& f) {
  // An exponential costs as much as some eight plain elements.
  const std::int64_t grain = cpu::items_per_grain(8 * view.n);
  if (view.inner == 1) {
    cpu::parallel_for(view.outer, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) f(o, o * view.n, One{});
    });
  } else {
    cpu::parallel_for(view.outer * view.inner, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) {
        const std::int64_t o = line / view.inner;
        f(line, o * view.n * view.inner + line % view.inner, view.inner);
      }
    });
  }
}

template <class T>
T largest_of_row(const T* x, std::int64_t n) {
  return cpu::largest<T>(n, [=](std::int64_t i) { return x[i]; });
}

}  // namespace

void CpuKernels::softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "softmax", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = y.data<T>();
    const std::int64_t n = view.n;
    for_strided_lines(view, [=](std::int64_t, std::int64_t first, auto step) {
      const T* const in = from + first;
      T* const out = to + first;
      const T top = cpu::largest<T>(n, [=](std::int64_t j) { return in[j * step]; });
      for (std::int64_t j = 0; j < n; ++j) out[j * step] = std::exp(in[j * step] - top);
      const T sum = cpu::lane_sum<T>(n, [=](std::int64_t j) { return out[j * step]; });
      for (std::int64_t j = 0; j < n; ++j) out[j * step] /= sum;
    });
  });
}

void CpuKernels::softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                  const Tensor& dx) {
  with_floating(dx.dtype(), "softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.data<T>();
    const std::int64_t n = view.n;
    for_strided_lines(view, [=](std::int64_t, std::int64_t first, auto step) {
      const T* const p = y_data + first;
      const T* const g = dy_data + first;
      T* const out = dx_data + first;
      const T dot = cpu::lane_sum<T>(n, [=](std::int64_t j) { return g[j * step] * p[j * step]; });
      for (std::int64_t j = 0; j < n; ++j) out[j * step] = p[j * step] * (g[j * step] - dot);
    });
  });
}

void CpuKernels::log_softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "log_softmax", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = y.data<T>();
    const std::int64_t n = view.n;
    for_strided_lines(view, [=](std::int64_t, std::int64_t first, auto step) {
      const T* const in = from + first;
      T* const out = to + first;
      const T top = cpu::largest<T>(n, [=](std::int64_t j) { return in[j * step]; });
      const T sum =
          cpu::lane_sum<T>(n, [=](std::int64_t j) { return std::exp(in[j * step] - top); });
      const T log_sum = std::log(sum);
      for (std::int64_t j = 0; j < n; ++j) out[j * step] = (in[j * step] - top) - log_sum;
    });
  });
}

void CpuKernels::log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                      const Tensor& dx) {
  with_floating(dx.dtype(), "log_softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.data<T>();
    const std::int64_t n = view.n;
    for_strided_lines(view, [=](std::int64_t, std::int64_t first, auto step) {
      const T* const log_p = y_data + first;
      const T* const g = dy_data + first;
      T* const out = dx_data + first;
      const T sum = cpu::lane_sum<T>(n, [=](std::int64_t j) { return g[j * step]; });
      for (std::int64_t j = 0; j < n; ++j) {
        out[j * step] = g[j * step] - std::exp(log_p[j * step]) * sum;
      }
    });
  });
}

void CpuKernels::logsumexp_backward(const Tensor& x, const Tensor& y, const Tensor& dy,
                                    AxisView view, const Tensor& dx) {
  with_floating(dx.dtype(), "logsumexp_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.data<T>();
    const std::int64_t n = view.n;
    for_strided_lines(view, [=](std::int64_t line, std::int64_t first, auto step) {
      const T* const in = x_data + first;
      T* const out = dx_data + first;
      // Where every element is -infinity none of them has a share.
      const T lse = y_data[line] == -std::numeric_limits<T>::infinity() ? T(0) : y_data[line];
      const T g = dy_data[line];
      for (std::int64_t j = 0; j < n; ++j) out[j * step] = std::exp(in[j * step] - lse) * g;
    });
  });
}

void CpuKernels::cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                               const Tensor& lse) {
  const std::int64_t rows = labels.numel();
  const std::int64_t classes = logits.shape().back();
  const std::int32_t* const label = labels.data<std::int32_t>();
  cpu::require_indices("cross_entropy", label, rows, 0, classes);
  with_floating(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = logits.data<T>();
    T* const loss_data = loss.data<T>();
    T* const lse_data = lse.data<T>();
    for_strided_lines({rows, classes, 1}, [=](std::int64_t r, std::int64_t first, auto) {
      const T* const row = x + first;
      const T top = largest_of_row(row, classes);
      const T log_sum = std::log(
          cpu::lane_sum<T>(classes, [=](std::int64_t c) { return std::exp(row[c] - top); }));
      lse_data[r] = top + log_sum;
      loss_data[r] = log_sum - (row[label[r]] - top);
    });
  });
}

void CpuKernels::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                        const Tensor& lse, const Tensor& dy, double scale,
                                        const Tensor& dlogits) {
  const std::int64_t rows = labels.numel();
  const std::int64_t classes = logits.shape().back();
  const std::int32_t* const label = labels.data<std::int32_t>();
  cpu::require_indices("cross_entropy_backward", label, rows, 0, classes);
  with_floating(dlogits.dtype(), "cross_entropy_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = logits.data<T>();
    const T* const lse_data = lse.data<T>();
    T* const dx = dlogits.data<T>();
    const T factor = static_cast<T>(scale) * *dy.data<T>();
    for_strided_lines({rows, classes, 1}, [=](std::int64_t r, std::int64_t first, auto) {
      for (std::int64_t c = 0; c < classes; ++c) {
        const T p = std::exp(x[first + c] - lse_data[r]);
        dx[first + c] = factor * (p - (c == label[r] ? T(1) : T(0)));
      }
    });
  });
}

}  // namespace moegrad
