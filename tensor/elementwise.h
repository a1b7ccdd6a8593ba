#pragma once

#include <cmath>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "tensor/cpu_math.h"

// Element-wise functions and their derivatives, shared by the host and the device.
//
// A functor of one argument has
//   name, summary          for the lists and the documentation
//   kNeeds                 what df reads: the input x, the output y, or nothing
//   f(x, p), df(x, y, p)   value and derivative; p holds the numbers of a call
//   kLow, kHigh            the range that the checks draw x from
//   wall(x, p)             only where f has kinks: x's distance to the nearest one, and
//   side(x, p)             how many of them lie below x
// A functor of two arguments has f(a, b), da(a, b, y), db(a, b, y), the ranges of both, and where f
// has a kink wall(a, b), its signed distance.
// A new functor goes into the list at the end; nothing else has to change.

#ifdef __CUDACC__
#define MOEGRAD_HD __host__ __device__
#else
#define MOEGRAD_HD [[gnu::always_inline]] inline  // a call would keep loops from becoming vectors
#endif

namespace moegrad {

// The door to <cmath> for functors: the same functions, but on the host those of cpu_math.h for
// float and double.
namespace math {

#ifdef __CUDA_ARCH__
template <class T>
inline constexpr bool kOfHost = false;
#else
template <class T>
inline constexpr bool kOfHost = std::is_same_v<T, float> || std::is_same_v<T, double>;
#endif

#define MOEGRAD_DOOR(NAME)      \
  template <class T>            \
  MOEGRAD_HD T NAME(T x) {      \
    if constexpr (kOfHost<T>) { \
      return cpu::NAME(x);      \
    } else {                    \
      return std::NAME(x);      \
    }                           \
  }
MOEGRAD_DOOR(exp)
MOEGRAD_DOOR(log)
MOEGRAD_DOOR(log1p)
MOEGRAD_DOOR(tanh)
MOEGRAD_DOOR(erf)
#undef MOEGRAD_DOOR

}  // namespace math

// What a backward pass reads of the forward pass, besides the incoming adjoint.
enum class Needs { nothing, inputs, output, inputs_and_output };

// The numbers of one call, such as the bounds of clamp.
struct Scalars {
  double a = 0.0;
  double b = 0.0;
};

// What f costs, counted in elements of cheap work (relu): kCost where a functor has one, else 1.
template <class F>
constexpr int cost_of() {
  if constexpr (requires { F::kCost; }) {
    return F::kCost;
  } else {
    return 1;
  }
}

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

#define MOEGRAD_BINARY_FUNCTOR(TEXT_NAME, SUMMARY, NEEDS, LOW_A, HIGH_A, LOW_B, HIGH_B) \
  static constexpr std::string_view name = TEXT_NAME;                                   \
  static constexpr std::string_view summary = SUMMARY;                                  \
  static constexpr Needs kNeeds = Needs::NEEDS;                                         \
  static constexpr double kLowA = LOW_A, kHighA = HIGH_A;                               \
  static constexpr double kLowB = LOW_B, kHighB = HIGH_B;

struct Add {
  MOEGRAD_BINARY_FUNCTOR("add", "a + b", nothing, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return a + b;
  }
  template <class T>
  MOEGRAD_HD static T da(T, T, T) {
    return T(1);
  }
  template <class T>
  MOEGRAD_HD static T db(T, T, T) {
    return T(1);
  }
};

struct Sub {
  MOEGRAD_BINARY_FUNCTOR("sub", "a - b", nothing, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return a - b;
  }
  template <class T>
  MOEGRAD_HD static T da(T, T, T) {
    return T(1);
  }
  template <class T>
  MOEGRAD_HD static T db(T, T, T) {
    return T(-1);
  }
};

struct Mul {
  MOEGRAD_BINARY_FUNCTOR("mul", "a b, element by element", inputs, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return a * b;
  }
  template <class T>
  MOEGRAD_HD static T da(T, T b, T) {
    return b;
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T, T) {
    return a;
  }
};

struct Div {
  MOEGRAD_BINARY_FUNCTOR("div", "a / b", inputs, -2, 2, 0.5, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return a / b;
  }
  template <class T>
  MOEGRAD_HD static T da(T, T b, T) {
    return T(1) / b;
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T b, T) {
    return -a / (b * b);
  }
};

struct SquaredDifference {
  MOEGRAD_BINARY_FUNCTOR("squared_difference", "(a - b)^2", inputs, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return (a - b) * (a - b);
  }
  template <class T>
  MOEGRAD_HD static T da(T a, T b, T) {
    return T(2) * (a - b);
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T b, T) {
    return T(2) * (b - a);
  }
};

// Binary cross-entropy of a logit a against a target b in [0, 1]: softplus(a) - a b.
struct BinaryCrossEntropy {
  MOEGRAD_BINARY_FUNCTOR("binary_cross_entropy", "softplus(a) - a b for a logit a and a target b",
                         inputs, -3, 3, 0, 1)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return Softplus::f(a, Scalars{}) - a * b;
  }
  template <class T>
  MOEGRAD_HD static T da(T a, T b, T) {
    return Sigmoid::f(a, Scalars{}) - b;
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T, T) {
    return -a;
  }
};

// a^b. Where a = 0 and b >= 0 the derivative in b is 0, its limit from above but for b = 0; where
// b = 0 the derivative in a is 0 (0^0 = 1).
struct Pow {
  MOEGRAD_BINARY_FUNCTOR("pow", "a^b", inputs, 0.2, 3, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return std::pow(a, b);
  }
  template <class T>
  MOEGRAD_HD static T da(T a, T b, T) {
    return b == T(0) ? T(0) : b * std::pow(a, b - T(1));
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T b, T) {
    return a == T(0) && b >= T(0) ? T(0) : std::pow(a, b) * std::log(a);
  }
};

// Of equal operands each has half of the gradient; a NaN is the result.
struct Minimum {
  MOEGRAD_BINARY_FUNCTOR("minimum", "the smaller of a and b; of equals half the gradient to each",
                         inputs, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return (a > b) || (b != b) ? b : a;
  }
  template <class T>
  MOEGRAD_HD static T da(T a, T b, T) {
    return a > b ? T(0) : a == b ? T(0.5) : T(1);
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T b, T) {
    return a < b ? T(0) : a == b ? T(0.5) : T(1);
  }
  template <class T>
  MOEGRAD_HD static T wall(T a, T b) {
    return a - b;
  }
};

struct Maximum {
  MOEGRAD_BINARY_FUNCTOR("maximum", "the larger of a and b; of equals half the gradient to each",
                         inputs, -2, 2, -2, 2)
  template <class T>
  MOEGRAD_HD static T f(T a, T b) {
    return (a < b) || (b != b) ? b : a;
  }
  template <class T>
  MOEGRAD_HD static T da(T a, T b, T) {
    return a < b ? T(0) : a == b ? T(0.5) : T(1);
  }
  template <class T>
  MOEGRAD_HD static T db(T a, T b, T) {
    return a > b ? T(0) : a == b ? T(0.5) : T(1);
  }
  template <class T>
  MOEGRAD_HD static T wall(T a, T b) {
    return a - b;
  }
};

#undef MOEGRAD_BINARY_FUNCTOR

}  // namespace functor

template <class... Types>
struct TypeList {
  static constexpr std::size_t size = sizeof...(Types);
  // The place of a type in the list.
  template <class T>
  static constexpr int index_of() {
    int index = 0;
    const bool found = ((std::is_same_v<T, Types> ? true : (++index, false)) || ...);
    return found ? index : -1;
  }
};

using UnaryFunctors =
    TypeList<functor::Neg, functor::Affine, functor::Exp, functor::Log, functor::Sqrt,
             functor::Square, functor::Tanh, functor::Sigmoid, functor::Relu, functor::GeluTanh,
             functor::GeluErf, functor::Silu, functor::Softplus, functor::Erf, functor::Clamp,
             functor::Abs, functor::Sign, functor::Power, functor::Sin, functor::Cos>;

using BinaryFunctors =
    TypeList<functor::Add, functor::Sub, functor::Mul, functor::Div, functor::SquaredDifference,
             functor::BinaryCrossEntropy, functor::Pow, functor::Minimum, functor::Maximum>;

}  // namespace moegrad
