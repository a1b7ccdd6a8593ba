#pragma once

#include "tensor/unary_functors.h"

// Functors of two arguments; elementwise.h says what each has.

namespace moegrad {
namespace functor {

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

using BinaryFunctors =
    TypeList<functor::Add, functor::Sub, functor::Mul, functor::Div, functor::SquaredDifference,
             functor::BinaryCrossEntropy, functor::Pow, functor::Minimum, functor::Maximum>;

}  // namespace moegrad
