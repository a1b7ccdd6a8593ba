// Euclidean norms and cumulative sums along the middle axis of [outer, n, inner].
#include "cuda/kernels.h"
#include "cuda/lines.h"

namespace moegrad {
namespace {

using cuda::Axis;
using cuda::each;
using cuda::each_line;
using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;

// The norm of a line whose squares may have left the range of f64: of x / max |x|.
template <class T>
__device__ double scaled_norm(const T* x, const Line& line, const Team& team) {
  double largest = 0.0;
  for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
    const double size = std::abs(static_cast<double>(x[line.at(j)]));
    if (size > largest) largest = size;
  }
  largest = team.largest(largest);
  if (largest == 0.0 || largest - largest != 0.0) return largest;
  return largest * std::sqrt(cuda::line_sum(line, team, [=](std::int64_t at) {
           const double ratio = static_cast<double>(x[at]) / largest;
           return ratio * ratio;
         }));
}

template <class T>
void norm_as(const T* x, AxisView view, T* to) {
  each_line("norm", view, [=] __device__(const Line& line, const Team& team) {
    constexpr double kTiny = 1e-280;  // below it squares have lost digits; those of f32 never are
    const double squares = cuda::line_sum(line, team, [=](std::int64_t at) {
      const auto v = static_cast<double>(x[at]);
      return v * v;
    });
    const bool in_range = squares >= kTiny && squares <= std::numeric_limits<double>::max();
    // A NaN comes from a NaN alone.
    const double norm =
        in_range || squares != squares ? std::sqrt(squares) : scaled_norm(x, line, team);
    if (team.leads()) to[line.number] = static_cast<T>(norm);
  });
}

template <class T>
void norm_backward_as(const T* x, const T* y, const T* dy, AxisView view, T* dx) {
  const Axis axis(view);
  each("norm_backward", view.outer * view.n * view.inner, [=] __device__(std::int64_t i) {
    const std::int64_t line = axis.place(i).line;
    dx[i] = y[line] == T(0) ? T(0) : x[i] / y[line] * dy[line];
  });
}

template <class T>
void cumulative_sum_as(const T* x, AxisView view, bool from_end, T* to) {
  const Axis axis(view);
  each("cumulative_sum", view.outer * view.inner, [=] __device__(std::int64_t i) {
    const Line line = axis.line(i);
    double sum = 0.0;
    for (std::int64_t j = 0; j < line.n; ++j) {
      const std::int64_t at = line.at(from_end ? line.n - 1 - j : j);
      sum += static_cast<double>(x[at]);
      to[at] = static_cast<T>(sum);
    }
  });
}

}  // namespace

void CudaKernels::norm(const Tensor& x, AxisView view, const Tensor& t) {
  with_floating(t.dtype(), "norm", [&](auto zero) {
    using T = decltype(zero);
    norm_as(in<T>(x), view, out<T>(t));
  });
}

void CudaKernels::norm_backward(const Tensor& x, const Tensor& y, const Tensor& dy, AxisView view,
                                const Tensor& dx) {
  with_floating(dx.dtype(), "norm_backward", [&](auto zero) {
    using T = decltype(zero);
    norm_backward_as(in<T>(x), in<T>(y), in<T>(dy), view, out<T>(dx));
  });
}

void CudaKernels::cumulative_sum(const Tensor& x, AxisView view, bool from_end, const Tensor& t) {
  with_floating(t.dtype(), "cumulative_sum", [&](auto zero) {
    using T = decltype(zero);
    cumulative_sum_as(in<T>(x), view, from_end, out<T>(t));
  });
}

}  // namespace moegrad
