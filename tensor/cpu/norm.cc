// Layer normalisation and root-mean-square normalisation of rows.

#include <cmath>
#include <limits>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"

namespace moegrad {
namespace {

using cpu::lane_sum;

constexpr std::int64_t kNormRows = 64;  // rows of one partial sum of a scale's gradient

// Calls f(begin, end, sums) for chunks of rows, sums being `width` zeros of the chunk's own; writes
// the sums of all chunks, added in order, to out [width].
template <class T, class F>
void sum_over_rows(std::int64_t rows, std::int64_t width, T* out, F&& f) {
  const std::int64_t chunks = (rows + kNormRows - 1) / kNormRows;
  const Tensor workspace = Tensor::empty({chunks, width}, dtype_of<T>, Device::cpu);
  T* const partial = workspace.write<T>();
  cpu::parallel_pieces(chunks, [&](std::int64_t chunk, int) {
    T* const sums = partial + chunk * width;
    std::fill(sums, sums + width, T(0));
    f(chunk * kNormRows, std::min(rows, (chunk + 1) * kNormRows), sums);
  });
  for (std::int64_t i = 0; i < width; ++i) {
    double sum = 0.0;
    for (std::int64_t c = 0; c < chunks; ++c) sum += static_cast<double>(partial[c * width + i]);
    out[i] = static_cast<T>(sum);
  }
}

template <class T>
T divisor(std::int64_t cols) {
  return static_cast<T>(std::max<std::int64_t>(1, cols));
}

// 1/sqrt(mean of value(c)^2 + epsilon). In f32 the squares of numbers beyond 1e19 or below 1e-19
// overflow or vanish: f64 then.
template <class T, class F>
T inverse_deviation(std::int64_t cols, double epsilon, F value) {
  const T mean_square = lane_sum<T>(cols,
                                    [=](std::int64_t c) {
                                      const T v = value(c);
                                      return v * v;
                                    }) /
                        divisor<T>(cols);
  if constexpr (sizeof(T) < sizeof(double)) {
    if (!(mean_square > T(1e-30) && mean_square <= std::numeric_limits<T>::max())) {
      const double wide = lane_sum<double>(cols, [=](std::int64_t c) {
        const auto v = static_cast<double>(value(c));
        return v * v;
      });
      return static_cast<T>(1.0 / std::sqrt(wide / divisor<double>(cols) + epsilon));
    }
  }
  return T(1) / std::sqrt(mean_square + static_cast<T>(epsilon));
}

}  // namespace

void CpuKernels::layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift,
                            double epsilon, const Tensor& y, const Tensor& mean,
                            const Tensor& rstd) {
  with_floating(y.dtype(), "layer_norm", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t cols = scale.numel();
    const T* const x_data = x.data<T>();
    const T* const scale_data = scale.data<T>();
    const T* const shift_data = shift.data<T>();
    T* const y_data = y.write<T>();
    T* const mean_data = mean.write<T>();
    T* const rstd_data = rstd.write<T>();
    cpu::parallel_for(
        mean.numel(), cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t r = begin; r < end; ++r) {
            const T* const in = x_data + r * cols;
            T* const out = y_data + r * cols;
            const T x_0 = cols == 0 ? T(0) : in[0];
            const T m =
                lane_sum<T>(cols, [=](std::int64_t c) { return in[c] - x_0; }) / divisor<T>(cols);
            const T s = inverse_deviation<T>(cols, epsilon,
                                             [=](std::int64_t c) { return in[c] - x_0 - m; });
            mean_data[r] = m;
            rstd_data[r] = s;
            for (std::int64_t c = 0; c < cols; ++c) {
              out[c] = (in[c] - x_0 - m) * s * scale_data[c] + shift_data[c];
            }
          }
        });
  });
}

void CpuKernels::layer_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& mean,
                                     const Tensor& rstd, const Tensor& dy, const Tensor& dx,
                                     const Tensor& dscale, const Tensor& dshift) {
  with_floating(dx.dtype(), "layer_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t cols = scale.numel();
    const T* const x_data = x.data<T>();
    const T* const scale_data = scale.data<T>();
    const T* const mean_data = mean.data<T>();
    const T* const rstd_data = rstd.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    const Tensor both = Tensor::empty({2 * cols}, dtype_of<T>, Device::cpu);
    T* const both_data = both.write<T>();
    // With h = (x - mean) rstd and g = dy scale: dx = rstd (g - mean(g) - h mean(g h)).
    sum_over_rows(mean.numel(), 2 * cols, both_data,
                  [=](std::int64_t begin, std::int64_t end, T* __restrict sums) {
                    for (std::int64_t r = begin; r < end; ++r) {
                      const T* const in = x_data + r * cols;
                      const T* const g = dy_data + r * cols;
                      T* __restrict const out = dx_data + r * cols;
                      const T x_0 = cols == 0 ? T(0) : in[0];
                      const T m = mean_data[r];
                      const T s = rstd_data[r];
                      const T mean_g =
                          lane_sum<T>(cols, [=](std::int64_t c) { return g[c] * scale_data[c]; }) /
                          divisor<T>(cols);
                      const T mean_gh =
                          lane_sum<T>(cols,
                                      [=](std::int64_t c) {
                                        return g[c] * scale_data[c] * ((in[c] - x_0 - m) * s);
                                      }) /
                          divisor<T>(cols);
                      for (std::int64_t c = 0; c < cols; ++c) {
                        const T h = (in[c] - x_0 - m) * s;
                        out[c] = s * (g[c] * scale_data[c] - mean_g - h * mean_gh);
                        sums[c] += g[c] * h;
                        sums[cols + c] += g[c];
                      }
                    }
                  });
    std::copy(both_data, both_data + cols, dscale.write<T>());
    std::copy(both_data + cols, both_data + 2 * cols, dshift.write<T>());
  });
}

void CpuKernels::rms_norm(const Tensor& x, const Tensor& scale, double epsilon, const Tensor& y,
                          const Tensor& rstd) {
  with_floating(y.dtype(), "rms_norm", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t cols = scale.numel();
    const T* const x_data = x.data<T>();
    const T* const scale_data = scale.data<T>();
    T* const y_data = y.write<T>();
    T* const rstd_data = rstd.write<T>();
    cpu::parallel_for(
        rstd.numel(), cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t r = begin; r < end; ++r) {
            const T* const in = x_data + r * cols;
            T* const out = y_data + r * cols;
            const T s = inverse_deviation<T>(cols, epsilon, [=](std::int64_t c) { return in[c]; });
            rstd_data[r] = s;
            for (std::int64_t c = 0; c < cols; ++c) out[c] = in[c] * s * scale_data[c];
          }
        });
  });
}

void CpuKernels::rms_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& rstd,
                                   const Tensor& dy, const Tensor& dx, const Tensor& dscale) {
  with_floating(dx.dtype(), "rms_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t cols = scale.numel();
    const T* const x_data = x.data<T>();
    const T* const scale_data = scale.data<T>();
    const T* const rstd_data = rstd.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    // With h = x rstd and g = dy scale: dx = rstd (g - h mean(g h)).
    sum_over_rows(rstd.numel(), cols, dscale.write<T>(),
                  [=](std::int64_t begin, std::int64_t end, T* __restrict sums) {
                    for (std::int64_t r = begin; r < end; ++r) {
                      const T* const in = x_data + r * cols;
                      const T* const g = dy_data + r * cols;
                      T* __restrict const out = dx_data + r * cols;
                      const T s = rstd_data[r];
                      const T mean_gh = lane_sum<T>(cols,
                                                    [=](std::int64_t c) {
                                                      return g[c] * scale_data[c] * (in[c] * s);
                                                    }) /
                                        divisor<T>(cols);
                      for (std::int64_t c = 0; c < cols; ++c) {
                        const T h = in[c] * s;
                        out[c] = s * (g[c] * scale_data[c] - h * mean_gh);
                        sums[c] += g[c] * h;
                      }
                    }
                  });
  });
}

}  // namespace moegrad
