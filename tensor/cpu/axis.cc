// Euclidean norms and cumulative sums along the middle axis of [outer, n, inner]. Sums are held in
// double, so that neither long f32 lines nor squares out of f32's range lose digits.

#include <cmath>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lines.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"

namespace moegrad {
namespace {

constexpr std::int64_t kColumns = 256;        // side by side in one piece
constexpr std::int64_t kNormChunk = 1 << 14;  // summands of one partial sum of a contiguous row

// Calls f(first, width) for blocks of neighbouring columns: element j of column c is at first +
// j * inner + c, for c below width <= kColumns. `line` is the place of the first in [outer, inner].
template <class F>
void for_column_blocks(AxisView view, F&& f) {
  const std::int64_t blocks = (view.inner + kColumns - 1) / kColumns;
  const std::int64_t width = std::min(view.inner, kColumns);
  cpu::parallel_for(view.outer * blocks, cpu::items_per_grain(view.n * width),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        const std::int64_t o = i / blocks;
                        const std::int64_t c = i % blocks * kColumns;
                        f(o * view.n * view.inner + c, o * view.inner + c,
                          std::min(kColumns, view.inner - c));
                      }
                    });
}

// The norm of a line whose squares may have left the range of double: of x / max |x|.
template <class T>
double scaled_norm(const T* line, AxisView view) {
  double largest = 0.0;
  for (std::int64_t j = 0; j < view.n; ++j) {
    largest = std::max(largest, std::abs(static_cast<double>(line[j * view.inner])));
  }
  if (largest == 0.0 || std::isinf(largest)) return largest;
  double sum = 0.0;
  for (std::int64_t j = 0; j < view.n; ++j) {
    const double ratio = static_cast<double>(line[j * view.inner]) / largest;
    sum += ratio * ratio;
  }
  return largest * std::sqrt(sum);
}

template <class T>
T norm_from(double squares, const T* line, AxisView view) {
  constexpr double kTiny = 1e-280;  // below it squares have lost digits; those of f32 never are
  const bool in_range = squares >= kTiny && squares <= std::numeric_limits<double>::max();
  // A NaN comes from a NaN alone.
  if (in_range || std::isnan(squares)) return static_cast<T>(std::sqrt(squares));
  return static_cast<T>(scaled_norm(line, view));
}

template <class T>
double squares_of(const T* x, std::int64_t n) {
  return cpu::lane_sum<double>(n, [x](std::int64_t i) {
    const auto v = static_cast<double>(x[i]);
    return v * v;
  });
}

template <class T>
void norms_of_rows(const T* x, AxisView view, T* out) {
  const auto [outer, n, inner] = view;
  const std::int64_t chunks = std::max<std::int64_t>(1, (n + kNormChunk - 1) / kNormChunk);
  const Tensor workspace = Tensor::empty({outer, chunks}, DType::f64, Device::cpu);
  double* const partial = workspace.write<double>();
  cpu::parallel_for(outer * chunks, cpu::items_per_grain(std::min(n, kNormChunk)),
                    [=, n = n](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        const std::int64_t first = i % chunks * kNormChunk;
                        partial[i] =
                            squares_of(x + i / chunks * n + first, std::min(kNormChunk, n - first));
                      }
                    });
  for (std::int64_t o = 0; o < outer; ++o) {
    double sum = 0.0;
    for (std::int64_t c = 0; c < chunks; ++c) sum += partial[o * chunks + c];
    out[o] = norm_from(sum, x + o * n, view);
  }
}

}  // namespace

void CpuKernels::norm(const Tensor& x, AxisView view, const Tensor& out) {
  with_floating(out.dtype(), "norm", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    if (view.inner == 1) return norms_of_rows(from, view, to);
    for_column_blocks(view, [=](std::int64_t first, std::int64_t line, std::int64_t width) {
      double sums[kColumns] = {};
      for (std::int64_t j = 0; j < view.n; ++j) {
        const T* const row = from + first + j * view.inner;
        for (std::int64_t c = 0; c < width; ++c) {
          const auto v = static_cast<double>(row[c]);
          sums[c] += v * v;
        }
      }
      for (std::int64_t c = 0; c < width; ++c) {
        to[line + c] = norm_from(sums[c], from + first + c, view);
      }
    });
  });
}

void CpuKernels::norm_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                               const Tensor& dx) {
  with_floating(dx.dtype(), "norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const y_data = y.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    cpu::for_lines<T>(view, 1, [=](const auto& lines) {
      const cpu::Pack<T> norm = lines.of_lines(y_data);
      const cpu::Pack<T> g = lines.of_lines(dy_data);
      for (std::int64_t p = 0; p < lines.packs(); ++p) {
        lines.store(dx_data, p,
                    cpu::map([](T v, T l, T by) { return l == T(0) ? T(0) : v / l * by; },
                             lines.load(x_data, p, T(0)), norm, g));
      }
    });
  });
}

void CpuKernels::cumulative_sum(const Tensor& x, AxisView view, bool from_end, const Tensor& out) {
  with_floating(out.dtype(), "cumulative_sum", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    for_column_blocks(view, [=](std::int64_t first, std::int64_t, std::int64_t width) {
      double sums[kColumns] = {};
      for (std::int64_t j = 0; j < view.n; ++j) {
        const std::int64_t row = first + (from_end ? view.n - 1 - j : j) * view.inner;
        for (std::int64_t c = 0; c < width; ++c) {
          sums[c] += static_cast<double>(from[row + c]);
          to[row + c] = static_cast<T>(sums[c]);
        }
      }
    });
  });
}

}  // namespace moegrad
