// Layer normalisation and root-mean-square normalisation of rows: a warp a row, sums in f64.
#include "cuda/kernels.h"
#include "cuda/sums.h"

namespace moegrad {
namespace {

using cuda::each_warp;
using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;

__device__ Line row_of(std::int64_t r, std::int64_t cols) { return {r, r * cols, 1, cols}; }

template <class T>
void layer_norm_as(const T* x, const T* scale, const T* shift, double epsilon, std::int64_t rows,
                   std::int64_t cols, T* y, T* mean, T* rstd) {
  each_warp("layer_norm", rows, [=] __device__(std::int64_t r, unsigned lane) {
    const Line row = row_of(r, cols);
    const Team team = {lane, cuda::kWarp};
    const T x_0 = cols == 0 ? T(0) : x[row.first];
    const double divisor = cols == 0 ? 1.0 : static_cast<double>(cols);
    const T m = static_cast<T>(
        cuda::line_sum(row, team, [=](std::int64_t at) { return x[at] - x_0; }) / divisor);
    const double mean_square = cuda::line_sum(row, team, [=](std::int64_t at) {
      const auto v = static_cast<double>(x[at] - x_0 - m);
      return v * v;
    });
    const T s = static_cast<T>(1.0 / std::sqrt(mean_square / divisor + epsilon));
    if (team.leads()) {
      mean[r] = m;
      rstd[r] = s;
    }
    for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
      y[row.at(c)] = (x[row.at(c)] - x_0 - m) * s * scale[c] + shift[c];
    }
  });
}

// With h = (x - mean) rstd and g = dy scale: dx = rstd (g - mean(g) - h mean(g h)).
template <class T>
void layer_norm_backward_as(const T* x, const T* scale, const T* mean, const T* rstd, const T* dy,
                            std::int64_t rows, std::int64_t cols, T* dx, T* dscale, T* dshift) {
  const auto h = [=] __device__(std::int64_t at, std::int64_t r) {
    return (x[at] - x[r * cols] - mean[r]) * rstd[r];
  };
  each_warp("layer_norm_backward", rows, [=] __device__(std::int64_t r, unsigned lane) {
    const Line row = row_of(r, cols);
    const Team team = {lane, cuda::kWarp};
    const auto n = static_cast<double>(cols);
    const T mean_g = static_cast<T>(
        cuda::line_sum(row, team, [=](std::int64_t at) { return dy[at] * scale[at - row.first]; }) /
        n);
    const T mean_gh = static_cast<T>(
        cuda::line_sum(row, team,
                       [=](std::int64_t at) { return dy[at] * scale[at - row.first] * h(at, r); }) /
        n);
    for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
      const std::int64_t at = row.at(c);
      dx[at] = rstd[r] * (dy[at] * scale[c] - mean_g - h(at, r) * mean_gh);
    }
  });
  const AxisView columns = {1, rows, cols};
  const cuda::Divisor width(cols);
  cuda::sum_lines(
      "layer_norm_backward", columns,
      [=] __device__(std::int64_t at) { return dy[at] * h(at, width.times(at)); }, dscale);
  cuda::sum_lines(
      "layer_norm_backward", columns, [=] __device__(std::int64_t at) { return dy[at]; }, dshift);
}

template <class T>
void rms_norm_as(const T* x, const T* scale, double epsilon, std::int64_t rows, std::int64_t cols,
                 T* y, T* rstd) {
  each_warp("rms_norm", rows, [=] __device__(std::int64_t r, unsigned lane) {
    const Line row = row_of(r, cols);
    const Team team = {lane, cuda::kWarp};
    const double squares = cuda::line_sum(row, team, [=](std::int64_t at) {
      const auto v = static_cast<double>(x[at]);
      return v * v;
    });
    const double divisor = cols == 0 ? 1.0 : static_cast<double>(cols);
    const T s = static_cast<T>(1.0 / std::sqrt(squares / divisor + epsilon));
    if (team.leads()) rstd[r] = s;
    for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
      y[row.at(c)] = x[row.at(c)] * s * scale[c];
    }
  });
}

// With h = x rstd and g = dy scale: dx = rstd (g - h mean(g h)).
template <class T>
void rms_norm_backward_as(const T* x, const T* scale, const T* rstd, const T* dy, std::int64_t rows,
                          std::int64_t cols, T* dx, T* dscale) {
  each_warp("rms_norm_backward", rows, [=] __device__(std::int64_t r, unsigned lane) {
    const Line row = row_of(r, cols);
    const Team team = {lane, cuda::kWarp};
    const T s = rstd[r];
    const T mean_gh =
        static_cast<T>(cuda::line_sum(row, team,
                                      [=](std::int64_t at) {
                                        return dy[at] * scale[at - row.first] * (x[at] * s);
                                      }) /
                       static_cast<double>(cols));
    for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
      const std::int64_t at = row.at(c);
      dx[at] = s * (dy[at] * scale[c] - x[at] * s * mean_gh);
    }
  });
  const cuda::Divisor width(cols);
  cuda::sum_lines(
      "rms_norm_backward", {1, rows, cols},
      [=] __device__(std::int64_t at) { return dy[at] * (x[at] * rstd[width.times(at)]); }, dscale);
}

}  // namespace

void CudaKernels::layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift,
                             double epsilon, const Tensor& y, const Tensor& mean,
                             const Tensor& rstd) {
  with_floating(y.dtype(), "layer_norm", [&](auto zero) {
    using T = decltype(zero);
    layer_norm_as(in<T>(x), in<T>(scale), in<T>(shift), epsilon, mean.numel(), scale.numel(),
                  out<T>(y), out<T>(mean), out<T>(rstd));
  });
}

void CudaKernels::layer_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& mean,
                                      const Tensor& rstd, const Tensor& dy, const Tensor& dx,
                                      const Tensor& dscale, const Tensor& dshift) {
  with_floating(dx.dtype(), "layer_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    layer_norm_backward_as(in<T>(x), in<T>(scale), in<T>(mean), in<T>(rstd), in<T>(dy),
                           mean.numel(), scale.numel(), out<T>(dx), out<T>(dscale), out<T>(dshift));
  });
}

void CudaKernels::rms_norm(const Tensor& x, const Tensor& scale, double epsilon, const Tensor& y,
                           const Tensor& rstd) {
  with_floating(y.dtype(), "rms_norm", [&](auto zero) {
    using T = decltype(zero);
    rms_norm_as(in<T>(x), in<T>(scale), epsilon, rstd.numel(), scale.numel(), out<T>(y),
                out<T>(rstd));
  });
}

void CudaKernels::rms_norm_backward(const Tensor& x, const Tensor& scale, const Tensor& rstd,
                                    const Tensor& dy, const Tensor& dx, const Tensor& dscale) {
  with_floating(dx.dtype(), "rms_norm_backward", [&](auto zero) {
    using T = decltype(zero);
    rms_norm_backward_as(in<T>(x), in<T>(scale), in<T>(rstd), in<T>(dy), rstd.numel(),
                         scale.numel(), out<T>(dx), out<T>(dscale));
  });
}

}  // namespace moegrad
