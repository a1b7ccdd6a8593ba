// Element-wise functions of one and two arguments: one kernel for each functor, found by its place
// in the list.
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;

constexpr bool needs_inputs(Needs needs) {
  return needs == Needs::inputs || needs == Needs::inputs_and_output;
}
constexpr bool needs_output(Needs needs) {
  return needs == Needs::output || needs == Needs::inputs_and_output;
}

// Calls f(functor) for the one at this place of the list.
template <class... F, class Call>
void with_functor(TypeList<F...>, int place, const char* operation, Call&& f) {
  int at = 0;
  const bool found = ((at++ == place ? (f(F{}), true) : false) || ...);
  if (!found) {
    fail(operation, "there is no function {}. Use a place in the list of {} functors.", place,
         sizeof...(F));
  }
}

template <class F, class T>
void unary_as(Scalars p, const T* x, std::int64_t n, T* y) {
  each("unary", n, [=] __device__(std::int64_t i) { y[i] = F::f(x[i], p); });
}

template <class F, class T>
void unary_backward_as(Scalars p, const T* x, const T* y, const T* dy, std::int64_t n, T* dx) {
  each("unary_backward", n, [=] __device__(std::int64_t i) {
    const T x_i = needs_inputs(F::kNeeds) ? x[i] : T(0);
    const T y_i = needs_output(F::kNeeds) ? y[i] : T(0);
    dx[i] = F::df(x_i, y_i, p) * dy[i];
  });
}

// An operand laid over [rows, cols]; null reads zeros.
template <class T>
struct Operand {
  const T* data;
  Layout layout;
  __device__ T at(std::int64_t place) const { return data == nullptr ? T(0) : data[place]; }
  // Whether element i is at i * col: of a tensor as it is, and of one element for all.
  bool is_even(std::int64_t cols) const { return layout.row == cols * layout.col; }
};

// f(i, a_i, b_i) for the elements of [rows, cols], without a division where none is needed.
template <class T, class F>
void each_pair(const char* operation, std::int64_t rows, std::int64_t cols, Operand<T> a,
               Operand<T> b, const F& f) {
  const bool even = a.is_even(cols) && b.is_even(cols);
  const cuda::Divisor width(cols);
  each(operation, rows * cols, [=] __device__(std::int64_t i) {
    if (even) {
      f(i, a.at(i * a.layout.col), b.at(i * b.layout.col));
      return;
    }
    const cuda::Quotient at = width.of(i);
    f(i, a.at(at.times * a.layout.row + at.rest * a.layout.col),
      b.at(at.times * b.layout.row + at.rest * b.layout.col));
  });
}

template <class F, class T>
void binary_as(std::int64_t rows, std::int64_t cols, Operand<T> a, Operand<T> b, T* y) {
  each_pair("binary", rows, cols, a, b,
            [=] __device__(std::int64_t i, T a_i, T b_i) { y[i] = F::f(a_i, b_i); });
}

template <class F, class T>
void binary_backward_as(std::int64_t rows, std::int64_t cols, Operand<T> a, Operand<T> b,
                        const T* dy, T* da, T* db) {
  each_pair("binary_backward", rows, cols, a, b, [=] __device__(std::int64_t i, T a_i, T b_i) {
    const T y_i = needs_output(F::kNeeds) ? F::f(a_i, b_i) : T(0);
    const T dy_i = dy[i];  // da or db may be dy itself
    if (da != nullptr) da[i] = dy_i * F::da(a_i, b_i, y_i);
    if (db != nullptr) db[i] = dy_i * F::db(a_i, b_i, y_i);
  });
}

template <class T>
void where_as(std::int64_t rows, std::int64_t cols, const std::int32_t* condition, Operand<T> a,
              Operand<T> b, T* y) {
  each_pair("where", rows, cols, a, b,
            [=] __device__(std::int64_t i, T a_i, T b_i) { y[i] = condition[i] != 0 ? a_i : b_i; });
}

template <class T>
void greater_as(std::int64_t rows, std::int64_t cols, Operand<T> a, Operand<T> b, std::int32_t* y) {
  each_pair("greater", rows, cols, a, b,
            [=] __device__(std::int64_t i, T a_i, T b_i) { y[i] = a_i > b_i ? 1 : 0; });
}

}  // namespace

void CudaKernels::unary(int function, Scalars p, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "unary", [&](auto zero) {
    using T = decltype(zero);
    with_functor(UnaryFunctors{}, function, "unary", [&](auto functor) {
      unary_as<decltype(functor)>(p, in<T>(x), y.numel(), out<T>(y));
    });
  });
}

void CudaKernels::unary_backward(int function, Scalars p, const Tensor& x, const Tensor& y,
                                 const Tensor& dy, const Tensor& dx) {
  with_floating(dx.dtype(), "unary_backward", [&](auto zero) {
    using T = decltype(zero);
    with_functor(UnaryFunctors{}, function, "unary_backward", [&](auto functor) {
      unary_backward_as<decltype(functor)>(p, in<T>(x), in<T>(y), in<T>(dy), dx.numel(),
                                           out<T>(dx));
    });
  });
}

void CudaKernels::binary(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                         const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                         const Tensor& y) {
  with_floating(y.dtype(), "binary", [&](auto zero) {
    using T = decltype(zero);
    with_functor(BinaryFunctors{}, function, "binary", [&](auto functor) {
      binary_as<decltype(functor), T>(rows, cols, {in<T>(a), layout_a}, {in<T>(b), layout_b},
                                      out<T>(y));
    });
  });
}

void CudaKernels::binary_backward(int function, std::int64_t rows, std::int64_t cols,
                                  const Tensor& a, const Layout& layout_a, const Tensor& b,
                                  const Layout& layout_b, const Tensor& dy, const Tensor& da,
                                  const Tensor& db) {
  with_floating(dy.dtype(), "binary_backward", [&](auto zero) {
    using T = decltype(zero);
    with_functor(BinaryFunctors{}, function, "binary_backward", [&](auto functor) {
      binary_backward_as<decltype(functor), T>(rows, cols, {in<T>(a), layout_a},
                                               {in<T>(b), layout_b}, in<T>(dy), out<T>(da),
                                               out<T>(db));
    });
  });
}

void CudaKernels::where(const Tensor& condition, std::int64_t rows, std::int64_t cols,
                        const Tensor& a, const Layout& layout_a, const Tensor& b,
                        const Layout& layout_b, const Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    where_as<T>(rows, cols, in<std::int32_t>(condition), {in<T>(a), layout_a}, {in<T>(b), layout_b},
                out<T>(y));
  });
}

void CudaKernels::greater(std::int64_t rows, std::int64_t cols, const Tensor& a,
                          const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                          const Tensor& y) {
  with_any(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    greater_as<T>(rows, cols, {in<T>(a), layout_a}, {in<T>(b), layout_b}, out<std::int32_t>(y));
  });
}

}  // namespace moegrad
