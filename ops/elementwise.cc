#include "ops/elementwise.h"

#include <optional>

namespace moegrad {
namespace {

// The place of an operand in a result of this shape, if it fits.
std::optional<Layout> layout_in(const Shape& result, const Shape& operand) {
  const std::int64_t cols = result.back();
  if (operand == result) return Layout{cols, 1};
  if (operand.numel() == 1) return Layout{0, 0};
  const bool leading_ones = operand.rank() <= result.rank() &&
                            operand.product(0, operand.rank() - 1) == 1 && operand.rank() > 0;
  if (leading_ones && operand.back() == cols) return Layout{0, 1};
  if (operand.rank() == result.rank() && operand.back() == 1) {
    for (int axis = 0; axis + 1 < result.rank(); ++axis) {
      if (operand[axis] != result[axis]) return std::nullopt;
    }
    return Layout{1, 0};
  }
  return std::nullopt;
}

}  // namespace

BroadcastPlan broadcast(std::string_view operation, const Shape& a, const Shape& b) {
  if (a == b) {
    const std::int64_t cols = a.back();
    const std::int64_t rows = a.rank() == 0 ? 1 : a.product(0, a.rank() - 1);
    return {a, rows, cols, {cols, 1}, {cols, 1}};
  }
  Shape outer = a;  // what a column a and a row b span together
  if (outer.rank() > 0) outer[outer.rank() - 1] = b.back();
  Shape other = b;
  if (other.rank() > 0) other[other.rank() - 1] = a.back();
  for (const Shape& shape : {a, b, outer, other}) {
    const auto in_a = layout_in(shape, a);
    const auto in_b = layout_in(shape, b);
    if (!in_a || !in_b) continue;
    BroadcastPlan plan{shape, 1, shape.back(), *in_a, *in_b};
    plan.rows = shape.rank() == 0 ? 1 : shape.product(0, shape.rank() - 1);
    return plan;
  }
  fail(operation,
       "shapes {} and {} do not meet. Give equal shapes, or a row, a column or a scalar.", a, b);
}

Tensor sum_to(Tensor&& d, const Shape& shape, const Layout& layout, std::int64_t rows,
              std::int64_t cols) {
  if (d.shape() == shape) return std::move(d);
  if (d.numel() == shape.numel()) return d.reshape(shape);
  AxisView view;
  if (layout.row == 0 && layout.col == 0) {
    view = {1, rows * cols, 1};
  } else if (layout.row == 0) {
    view = {1, rows, cols};
  } else {
    view = {rows, cols, 1};
  }
  Tensor sum = Tensor::empty(shape, d.dtype(), d.device());
  kernels(d.device()).reduce(Reduction::sum, d, view, sum);
  return sum;
}

Var operator-(Var x) { return apply<Unary<functor::Neg>>({x}); }
Var affine(Var x, double scale, double shift) {
  return apply<Unary<functor::Affine>>({x}, {scale, shift});
}
Var exp(Var x) { return apply<Unary<functor::Exp>>({x}); }
Var log(Var x) { return apply<Unary<functor::Log>>({x}); }
Var sqrt(Var x) { return apply<Unary<functor::Sqrt>>({x}); }
Var square(Var x) { return apply<Unary<functor::Square>>({x}); }
Var tanh(Var x) { return apply<Unary<functor::Tanh>>({x}); }
Var sigmoid(Var x) { return apply<Unary<functor::Sigmoid>>({x}); }
Var relu(Var x) { return apply<Unary<functor::Relu>>({x}); }
Var gelu(Var x) { return apply<Unary<functor::GeluErf>>({x}); }
Var gelu_tanh(Var x) { return apply<Unary<functor::GeluTanh>>({x}); }
Var silu(Var x) { return apply<Unary<functor::Silu>>({x}); }
Var softplus(Var x) { return apply<Unary<functor::Softplus>>({x}); }
Var erf(Var x) { return apply<Unary<functor::Erf>>({x}); }
Var clamp(Var x, double low, double high) {
  if (!(low <= high)) fail("clamp", "bounds {} and {}. The first must not be larger.", low, high);
  return apply<Unary<functor::Clamp>>({x}, {low, high});
}

Var operator+(Var a, Var b) { return apply<Binary<functor::Add>>({a, b}); }
Var operator-(Var a, Var b) { return apply<Binary<functor::Sub>>({a, b}); }
Var operator*(Var a, Var b) { return apply<Binary<functor::Mul>>({a, b}); }
Var operator/(Var a, Var b) { return apply<Binary<functor::Div>>({a, b}); }
Var operator+(Var a, double b) { return affine(a, 1.0, b); }
Var operator*(Var a, double b) { return affine(a, b, 0.0); }
Var operator-(Var a, double b) { return affine(a, 1.0, -b); }
Var operator-(double a, Var b) { return affine(b, -1.0, a); }
Var operator/(Var a, double b) { return affine(a, 1.0 / b, 0.0); }
Var squared_difference(Var a, Var b) { return apply<Binary<functor::SquaredDifference>>({a, b}); }
Var binary_cross_entropy(Var logit, Var target) {
  return apply<Binary<functor::BinaryCrossEntropy>>({logit, target});
}

}  // namespace moegrad
