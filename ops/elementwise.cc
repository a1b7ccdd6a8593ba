#include "ops/elementwise.h"

namespace moegrad {

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
Var abs(Var x) { return apply<Unary<functor::Abs>>({x}); }
Var sign(Var x) { return apply<Unary<functor::Sign>>({x}); }
Var pow(Var x, double exponent) { return apply<Unary<functor::Power>>({x}, {exponent}); }
Var sin(Var x) { return apply<Unary<functor::Sin>>({x}); }
Var cos(Var x) { return apply<Unary<functor::Cos>>({x}); }

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
Var pow(Var base, Var exponent) { return apply<Binary<functor::Pow>>({base, exponent}); }
Var pow(double base, Var exponent) {
  const Tensor number = Tensor::full({}, base, exponent.dtype(), exponent.value().device());
  return pow(exponent.tape().constant(number), exponent);
}
Var minimum(Var a, Var b) { return apply<Binary<functor::Minimum>>({a, b}); }
Var maximum(Var a, Var b) { return apply<Binary<functor::Maximum>>({a, b}); }

}  // namespace moegrad
