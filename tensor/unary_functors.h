#pragma once

#include "tensor/functor.h"

// Functors of one argument; elementwise.h says what each has.

namespace moegrad {
namespace functor {

#define MOEGRAD_UNARY_FUNCTOR(TEXT_NAME, SUMMARY, NEEDS, LOW, HIGH) \
  static constexpr std::string_view name = TEXT_NAME;               \
  static constexpr std::string_view summary = SUMMARY;              \
  static constexpr Needs kNeeds = Needs::NEEDS;                     \
  static constexpr double kLow = LOW, kHigh = HIGH;

struct Neg {
  MOEGRAD_UNARY_FUNCTOR("neg", "-x", nothing, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return -x;
  }
  template <class T>
  MOEGRAD_HD static T df(T, T, Scalars) {
    return T(-1);
  }
};

struct Affine {
  MOEGRAD_UNARY_FUNCTOR("affine", "a x + b for two numbers a and b", nothing, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars p) {
    return T(p.a) * x + T(p.b);
  }
  template <class T>
  MOEGRAD_HD static T df(T, T, Scalars p) {
    return T(p.a);
  }
};

struct Exp {
  MOEGRAD_UNARY_FUNCTOR("exp", "e^x", output, -2, 2)
  static constexpr int kCost = 5;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return math::exp(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T, T y, Scalars) {
    return y;
  }
};

struct Log {
  MOEGRAD_UNARY_FUNCTOR("log", "natural logarithm", inputs, 0.2, 3)
  static constexpr int kCost = 7;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return math::log(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return T(1) / x;
  }
};

struct Sqrt {
  MOEGRAD_UNARY_FUNCTOR("sqrt", "square root", output, 0.2, 3)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return std::sqrt(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T, T y, Scalars) {
    return T(0.5) / y;
  }
};

struct Square {
  MOEGRAD_UNARY_FUNCTOR("square", "x^2", inputs, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return x * x;
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return T(2) * x;
  }
};

struct Tanh {
  MOEGRAD_UNARY_FUNCTOR("tanh", "hyperbolic tangent", output, -2, 2)
  static constexpr int kCost = 8;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return math::tanh(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T, T y, Scalars) {
    return T(1) - y * y;
  }
};

struct Sigmoid {
  MOEGRAD_UNARY_FUNCTOR("sigmoid", "1 / (1 + e^-x)", output, -3, 3)
  static constexpr int kCost = 7;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    const T e = math::exp(x < T(0) ? x : -x);
    return (x < T(0) ? e : T(1)) / (T(1) + e);
  }
  template <class T>
  MOEGRAD_HD static T df(T, T y, Scalars) {
    return y * (T(1) - y);
  }
};

struct Relu {
  MOEGRAD_UNARY_FUNCTOR("relu", "max(x, 0); derivative 0 at 0", inputs, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return x < T(0) ? T(0) : x;
  }  // NaN stays NaN
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return static_cast<T>(x > T(0));
  }
  template <class T>
  MOEGRAD_HD static T wall(T x, Scalars) {
    return std::abs(x);
  }
  template <class T>
  MOEGRAD_HD static int side(T x, Scalars) {
    return x > T(0);
  }
};

struct GeluTanh {
  MOEGRAD_UNARY_FUNCTOR("gelu_tanh", "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", inputs, -3, 3)
  static constexpr int kCost = 9;
  // 1 + tanh(z) = 2 sigmoid(2 z), which is quicker and exact for large negative x.
  static constexpr double kScale = 2 * 0.79788456080286535588;  // 2 sqrt(2/pi)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars p) {
    return x * Sigmoid::f(T(kScale) * (x + T(0.044715) * x * x * x), p);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars p) {
    const T s = Sigmoid::f(T(kScale) * (x + T(0.044715) * x * x * x), p);
    const T inner = T(kScale) * (T(1) + T(3 * 0.044715) * x * x);
    return s + x * s * (T(1) - s) * inner;
  }
};

struct GeluErf {
  MOEGRAD_UNARY_FUNCTOR("gelu", "x/2 (1 + erf(x / sqrt(2)))", inputs, -3, 3)
  static constexpr int kCost = 13;
  static constexpr double kInverseRoot2 = 0.70710678118654752440;
  static constexpr double kInverseRoot2Pi = 0.39894228040143267794;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return T(0.5) * x * (T(1) + math::erf(x * T(kInverseRoot2)));
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return T(0.5) * (T(1) + math::erf(x * T(kInverseRoot2))) +
           x * T(kInverseRoot2Pi) * math::exp(T(-0.5) * x * x);
  }
};

struct Silu {
  MOEGRAD_UNARY_FUNCTOR("silu", "x sigmoid(x)", inputs, -3, 3)
  static constexpr int kCost = 7;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars p) {
    return x * Sigmoid::f(x, p);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars p) {
    const T s = Sigmoid::f(x, p);
    return s * (T(1) + x * (T(1) - s));
  }
};

struct Softplus {
  MOEGRAD_UNARY_FUNCTOR("softplus", "log(1 + e^x)", inputs, -3, 3)
  static constexpr int kCost = 20;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return (x > T(0) ? x : T(0)) + math::log1p(math::exp(x > T(0) ? -x : x));
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars p) {
    return Sigmoid::f(x, p);
  }
};

struct Erf {
  MOEGRAD_UNARY_FUNCTOR("erf", "error function", inputs, -2, 2)
  static constexpr int kCost = 12;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return math::erf(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return T(1.12837916709551257390) * math::exp(-x * x);  // 2/sqrt(pi)
  }
};

struct Clamp {
  MOEGRAD_UNARY_FUNCTOR("clamp", "x held within [a, b]; derivative 1 strictly inside, else 0",
                        inputs, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars p) {
    return x < T(p.a) ? T(p.a) : x > T(p.b) ? T(p.b) : x;
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars p) {
    return static_cast<T>((x > T(p.a)) & (x < T(p.b)));
  }
  template <class T>
  MOEGRAD_HD static T wall(T x, Scalars p) {
    const T low = std::abs(x - T(p.a));
    const T high = std::abs(x - T(p.b));
    return low < high ? low : high;
  }
  template <class T>
  MOEGRAD_HD static int side(T x, Scalars p) {
    return (x > T(p.a)) + (x > T(p.b));
  }
};

struct Abs {
  MOEGRAD_UNARY_FUNCTOR("abs", "|x|; derivative 0 at 0", inputs, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return std::abs(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return static_cast<T>(x > T(0)) - static_cast<T>(x < T(0));
  }
  template <class T>
  MOEGRAD_HD static T wall(T x, Scalars) {
    return std::abs(x);
  }
  template <class T>
  MOEGRAD_HD static int side(T x, Scalars) {
    return x > T(0);
  }
};

struct Sign {
  MOEGRAD_UNARY_FUNCTOR("sign", "-1, 0 or 1 by the sign of x; derivative 0", nothing, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
  }  // NaN stays NaN
  template <class T>
  MOEGRAD_HD static T df(T, T, Scalars) {
    return T(0);
  }
  template <class T>
  MOEGRAD_HD static T wall(T x, Scalars) {
    return std::abs(x);
  }
  template <class T>
  MOEGRAD_HD static int side(T x, Scalars) {
    return x > T(0);
  }
};

struct Power {
  MOEGRAD_UNARY_FUNCTOR("power", "x^a for a number a", inputs, 0.2, 3)
  static constexpr int kCost = 100;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars p) {
    return std::pow(x, T(p.a));
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars p) {
    return p.a == 0.0 ? T(0) : T(p.a) * std::pow(x, T(p.a - 1.0));
  }
};

struct Sin {
  MOEGRAD_UNARY_FUNCTOR("sin", "sine", inputs, -4, 4)
  static constexpr int kCost = 60;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return std::sin(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return std::cos(x);
  }
};

struct Cos {
  MOEGRAD_UNARY_FUNCTOR("cos", "cosine", inputs, -4, 4)
  static constexpr int kCost = 60;
  template <class T>
  MOEGRAD_HD static T f(T x, Scalars) {
    return std::cos(x);
  }
  template <class T>
  MOEGRAD_HD static T df(T x, T, Scalars) {
    return -std::sin(x);
  }
};

#undef MOEGRAD_UNARY_FUNCTOR

}  // namespace functor

using UnaryFunctors =
    TypeList<functor::Neg, functor::Affine, functor::Exp, functor::Log, functor::Sqrt,
             functor::Square, functor::Tanh, functor::Sigmoid, functor::Relu, functor::GeluTanh,
             functor::GeluErf, functor::Silu, functor::Softplus, functor::Erf, functor::Clamp,
             functor::Abs, functor::Sign, functor::Power, functor::Sin, functor::Cos>;

}  // namespace moegrad
