// Sums, maxima and copies along the middle axis of [outer, n, inner].
#include "cuda/kernels.h"
#include "cuda/sums.h"

namespace moegrad {
namespace {

using cuda::Axis;
using cuda::each;
using cuda::each_line;
using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;

template <class T>
void sum_as(const T* x, AxisView view, T* to) {
  cuda::sum_lines(
      "sum", view, [=] __device__(std::int64_t at) { return x[at]; }, to);
}
template <class T>
void sum_of_squares_as(const T* x, AxisView view, T* to) {
  cuda::sum_lines(
      "sum_of_squares", view, [=] __device__(std::int64_t at) { return x[at] * x[at]; }, to);
}

template <class T>
void max_as(const T* x, AxisView view, T* to) {
  each_line("max", view, [=] __device__(const Line& line, const Team& team) {
    const T top = cuda::line_largest(x, line, team);
    if (team.leads()) to[line.number] = top;
  });
}

template <class T>
void logsumexp_as(const T* x, AxisView view, T* to) {
  each_line("logsumexp", view, [=] __device__(const Line& line, const Team& team) {
    const T top = cuda::line_largest(x, line, team);
    const T sum = cuda::line_exp_sum(x, top, line, team);
    // All -infinity, a NaN, or a +infinity: the largest is the result.
    if (team.leads()) to[line.number] = top - top == T(0) ? top + math::log(sum) : top;
  });
}

template <class T>
void argmax_as(const T* x, AxisView view, std::int32_t* index) {
  each_line("argmax", view, [=] __device__(const Line& line, const Team& team) {
    const std::int64_t best = cuda::next_in_order(x, line, team, -1);
    if (team.leads()) index[line.number] = static_cast<std::int32_t>(best);
  });
}

template <class T>
void expand_as(const T* x, T scale, AxisView view, T* to) {
  const Axis axis(view);
  each("expand", view.outer * view.n * view.inner,
       [=] __device__(std::int64_t i) { to[i] = scale * x[axis.place(i).line]; });
}

template <class T>
void place_as(const T* x, const std::int32_t* index, AxisView view, cuda::IndexCheck check, T* to) {
  const Axis axis(view);
  each("place", view.outer * view.n * view.inner, [=] __device__(std::int64_t i) {
    const auto [line, j] = axis.place(i);
    to[i] = check(index[line], line) && index[line] == j ? x[line] : T(0);
  });
}

template <class T>
void squared_error_as(const T* a, const T* b, std::int64_t n, T* to) {
  cuda::sum_lines(
      "squared_error", {1, n, 1},
      [=] __device__(std::int64_t at) { return (a[at] - b[at]) * (a[at] - b[at]); }, to);
}

template <class T>
void squared_error_backward_as(const T* a, const T* b, const T* dy, T scale, std::int64_t n,
                               T* da) {
  each("squared_error_backward", n,
       [=] __device__(std::int64_t i) { da[i] = scale * dy[0] * (a[i] - b[i]); });
}

void require_elements(const char* operation, AxisView view) {
  if (view.n == 0 && view.outer * view.inner > 0) {
    fail(operation, "an axis of size 0 has no largest element. Reduce a non-empty axis.");
  }
}

}  // namespace

void CudaKernels::reduce(Reduction reduction, const Tensor& x, AxisView view, const Tensor& t) {
  with_floating(t.dtype(), "reduce", [&](auto zero) {
    using T = decltype(zero);
    switch (reduction) {
      case Reduction::sum:
        return sum_as(in<T>(x), view, out<T>(t));
      case Reduction::sum_of_squares:
        return sum_of_squares_as(in<T>(x), view, out<T>(t));
      case Reduction::max:
        require_elements("max", view);
        return max_as(in<T>(x), view, out<T>(t));
      case Reduction::logsumexp:
        return logsumexp_as(in<T>(x), view, out<T>(t));
    }
  });
}

void CudaKernels::argmax(const Tensor& x, AxisView view, const Tensor& index) {
  require_elements("argmax", view);
  with_floating(x.dtype(), "argmax", [&](auto zero) {
    using T = decltype(zero);
    argmax_as(in<T>(x), view, out<std::int32_t>(index));
  });
}

void CudaKernels::expand(const Tensor& x, double scale, AxisView view, const Tensor& t) {
  with_floating(t.dtype(), "expand", [&](auto zero) {
    using T = decltype(zero);
    expand_as(in<T>(x), static_cast<T>(scale), view, out<T>(t));
  });
}

void CudaKernels::place(const Tensor& x, const Tensor& index, AxisView view, const Tensor& t) {
  const cuda::IndexCheck check = cuda::indices("place", 0, view.n);
  with_floating(t.dtype(), "place", [&](auto zero) {
    using T = decltype(zero);
    place_as(in<T>(x), in<std::int32_t>(index), view, check, out<T>(t));
  });
}

void CudaKernels::squared_error(const Tensor& a, const Tensor& b, const Tensor& t) {
  with_floating(t.dtype(), "squared_error", [&](auto zero) {
    using T = decltype(zero);
    squared_error_as(in<T>(a), in<T>(b), a.numel(), out<T>(t));
  });
}

void CudaKernels::squared_error_backward(const Tensor& a, const Tensor& b, const Tensor& dy,
                                         double scale, const Tensor& da) {
  with_floating(da.dtype(), "squared_error_backward", [&](auto zero) {
    using T = decltype(zero);
    squared_error_backward_as(in<T>(a), in<T>(b), in<T>(dy), static_cast<T>(2.0 * scale), a.numel(),
                              out<T>(da));
  });
}

}  // namespace moegrad
