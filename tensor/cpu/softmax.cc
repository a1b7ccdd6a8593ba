// Softmax and its relatives along the middle axis of [outer, n, inner]; cross-entropy.

#include <limits>
#include <type_traits>

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lines.h"
#include "tensor/cpu/sum.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

using cpu::added;
using cpu::filled;
using cpu::for_lines;
using cpu::map;
using cpu::Pack;

constexpr std::int64_t kExpCost = 4;  // plain elements that an exponential costs

}  // namespace

void CpuKernels::softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "softmax", [&](auto zero) {
    using T = decltype(zero);
    constexpr T kLowest = -std::numeric_limits<T>::infinity();
    const T* const in = x.data<T>();
    T* const out = y.write<T>();
    for_lines<T>(view, kExpCost, [=](const auto& lines) {
      const Pack<T> top = cpu::largest_of(lines, in);
      const Pack<T> sum = cpu::sum_of<T>(lines, [&](std::int64_t p) MOEGRAD_INLINED {
        const Pack<T> e =
            map([](T v, T t) { return math::exp(v - t); }, lines.load(in, p, kLowest), top);
        lines.store(out, p, e);
        return e;
      });
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(out, p, map([](T e, T s) { return e / s; }, lines.load(out, p, T(0)), sum));
      }
    });
  });
}

void CpuKernels::softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                  const Tensor& dx) {
  with_floating(dx.dtype(), "softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    const auto long_row = [=](const cpu::Along<T>& line) {
      const T* const y_row = line.row(y_data);
      const T* const g = line.row(dy_data);
      T* const out = line.row(dx_data);
      const T dot = cpu::lane_sum<T>(line.size(), [=](std::int64_t i) { return g[i] * y_row[i]; });
      for (std::int64_t i = 0; i < line.size(); ++i) out[i] = y_row[i] * (g[i] - dot);
    };
    const auto side_by_side = [=](const cpu::Across<T>& lines) {
      const Pack<T> dot = cpu::sum_of<T>(lines, [&](std::int64_t p) MOEGRAD_INLINED {
        return map([](T y_i, T g) { return g * y_i; }, lines.load(y_data, p, T(0)),
                   lines.load(dy_data, p, T(0)));
      });
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(dx_data, p,
                    map([](T y_i, T g, T d) { return y_i * (g - d); }, lines.load(y_data, p, T(0)),
                        lines.load(dy_data, p, T(0)), dot));
      }
    };
    for_lines<T>(view, 1, [=](const auto& lines) {
      if constexpr (std::is_same_v<std::decay_t<decltype(lines)>, cpu::Along<T>>) {
        long_row(lines);
      } else {
        side_by_side(lines);
      }
    });
  });
}

void CpuKernels::log_softmax(const Tensor& x, AxisView view, const Tensor& y) {
  with_floating(y.dtype(), "log_softmax", [&](auto zero) {
    using T = decltype(zero);
    const T* const in = x.data<T>();
    T* const out = y.write<T>();
    for_lines<T>(view, kExpCost, [=](const auto& lines) {
      const Pack<T> top = cpu::largest_of(lines, in);
      const Pack<T> log_sum =
          map([](T s) { return math::log(s); }, cpu::exp_sum_of(lines, in, top));
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(
            out, p,
            map([](T v, T t, T l) { return (v - t) - l; }, lines.load(in, p, T(0)), top, log_sum));
      }
    });
  });
}

void CpuKernels::log_softmax_backward(const Tensor& y, const Tensor& dy, AxisView view,
                                      const Tensor& dx) {
  with_floating(dx.dtype(), "log_softmax_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    for_lines<T>(view, kExpCost, [=](const auto& lines) {
      const Pack<T> sum = cpu::sum_of<T>(
          lines, [&](std::int64_t p) MOEGRAD_INLINED { return lines.load(dy_data, p, T(0)); });
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(dx_data, p,
                    map([](T log_p, T g, T s) { return g - math::exp(log_p) * s; },
                        lines.load(y_data, p, T(0)), lines.load(dy_data, p, T(0)), sum));
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
    T* const dx_data = dx.write<T>();
    for_lines<T>(view, kExpCost, [=](const auto& lines) {
      // Where every element is -infinity none of them has a share, whatever dy is.
      constexpr T kLowest = -std::numeric_limits<T>::infinity();
      const Pack<T> y_of_lines = lines.of_lines(y_data);
      const Pack<T> lse = map([](T l) { return l == kLowest ? T(0) : l; }, y_of_lines);
      const Pack<T> g = map([](T l, T by) { return l == kLowest ? T(0) : by; }, y_of_lines,
                            lines.of_lines(dy_data));
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(dx_data, p,
                    map([](T v, T l, T by) { return math::exp(v - l) * by; },
                        lines.load(x_data, p, T(0)), lse, g));
      }
    });
  });
}

namespace {

// Labels to look up: of a row without one (-1), 0.
Tensor labels_within(const Tensor& labels) {
  const auto values = labels.values<std::int32_t>();
  if (std::none_of(values.begin(), values.end(), [](std::int32_t l) { return l < 0; })) {
    return labels;
  }
  Tensor within = labels.clone();
  for (std::int32_t& label : within.write_values<std::int32_t>()) label = std::max(label, 0);
  return within;
}

// Zeros in the rows of x [rows, cols] that have no label.
template <class T>
void clear_rows_without_label(const Tensor& labels, T* x, std::int64_t cols) {
  const auto values = labels.values<std::int32_t>();
  for (std::size_t row = 0; row < values.size(); ++row) {
    if (values[row] < 0) std::fill_n(x + static_cast<std::int64_t>(row) * cols, cols, T(0));
  }
}

}  // namespace

void CpuKernels::cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& loss,
                               const Tensor& lse) {
  const std::int64_t rows = labels.numel();
  const std::int64_t classes = logits.shape().back();
  cpu::require_indices("cross_entropy", labels.data<std::int32_t>(), rows, -1, classes);
  if (classes == 0) {  // no label to look up
    fill(0.0, loss);
    return fill(-std::numeric_limits<double>::infinity(), lse);
  }
  const Tensor within = labels_within(labels);
  const std::int32_t* const label = within.data<std::int32_t>();
  with_floating(logits.dtype(), "cross_entropy", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = logits.data<T>();
    T* const loss_data = loss.write<T>();
    T* const lse_data = lse.write<T>();
    for_lines<T>({rows, classes, 1}, kExpCost, [=](const auto& lines) {
      const Pack<T> top = cpu::largest_of(lines, x);
      const Pack<T> log_sum = map([](T s) { return math::log(s); }, cpu::exp_sum_of(lines, x, top));
      lines.store_lines(lse_data, added(top, log_sum));
      lines.store_lines(loss_data, map([](T l, T v, T t) { return l - (v - t); }, log_sum,
                                       lines.at(x, label), top));
    });
    if (!within.shares_storage(labels)) clear_rows_without_label(labels, loss_data, 1);
  });
}

void CpuKernels::cross_entropy_backward(const Tensor& logits, const Tensor& labels,
                                        const Tensor& lse, const Tensor& dy, double scale,
                                        const Tensor& dlogits) {
  const std::int64_t rows = labels.numel();
  const std::int64_t classes = logits.shape().back();
  cpu::require_indices("cross_entropy_backward", labels.data<std::int32_t>(), rows, -1, classes);
  if (classes == 0) return;
  const Tensor within = labels_within(labels);
  const std::int32_t* const label = within.data<std::int32_t>();
  with_floating(dlogits.dtype(), "cross_entropy_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = logits.data<T>();
    const T* const lse_data = lse.data<T>();
    T* const dx = dlogits.write<T>();
    const T factor = static_cast<T>(scale) * *dy.data<T>();
    for_lines<T>({rows, classes, 1}, kExpCost, [=](const auto& lines) {
      const Pack<T> log_sum = lines.of_lines(lse_data);
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(dx, p,
                    map([factor](T v, T l) { return factor * math::exp(v - l); },
                        lines.load(x, p, T(0)), log_sum));
      }
      lines.store_at(dx, label,
                     map([factor](T v, T l) { return factor * (math::exp(v - l) - T(1)); },
                         lines.at(x, label), log_sum));
    });
    if (!within.shares_storage(labels)) clear_rows_without_label(labels, dx, classes);
  });
}

}  // namespace moegrad
