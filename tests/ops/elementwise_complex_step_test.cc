// A second oracle for smooth functors: Im f(x + ih) / h for a tiny h is the derivative without any
// cancellation (Squire & Trapp, SIAM Review 1998).

#include <cmath>
#include <complex>  // before the functors, which are then instantiated for complex numbers

#include <doctest/doctest.h>

#include "tensor/elementwise.h"

using namespace moegrad;
using namespace moegrad::functor;

namespace {

constexpr double kStep = 1e-30;
constexpr int kPoints = 41;
const Scalars kScalars{1.7, -0.4};

double point(double low, double high, int i) { return low + (high - low) * i / (kPoints - 1); }

void check(double analytic, std::complex<double> stepped) {
  const double expected = stepped.imag() / kStep;
  CHECK(std::abs(analytic - expected) <= 1e-14 * std::fmax(1.0, std::abs(expected)));
}

template <class... F>
void check_unary(TypeList<F...>) {
  const auto one = [](auto functor) {
    using Functor = decltype(functor);
    INFO(Functor::name);
    for (int i = 0; i < kPoints; ++i) {
      const double x = point(Functor::kLow, Functor::kHigh, i);
      check(Functor::df(x, Functor::f(x, kScalars), kScalars),
            Functor::f(std::complex<double>(x, kStep), kScalars));
    }
  };
  (one(F{}), ...);
}

template <class... F>
void check_binary(TypeList<F...>) {
  const auto one = [](auto functor) {
    using Functor = decltype(functor);
    INFO(Functor::name);
    for (int i = 0; i < kPoints * kPoints; ++i) {
      const double a = point(Functor::kLowA, Functor::kHighA, i % kPoints);
      const double b = point(Functor::kLowB, Functor::kHighB, i / kPoints);
      using C = std::complex<double>;
      check(Functor::da(a, b, Functor::f(a, b)), Functor::f(C(a, kStep), C(b)));
      check(Functor::db(a, b, Functor::f(a, b)), Functor::f(C(a), C(b, kStep)));
    }
  };
  (one(F{}), ...);
}

}  // namespace

TEST_CASE("derivatives agree with the complex step, where the function takes complex numbers") {
  check_unary(TypeList<Neg, Affine, Exp, Log, Sqrt, Square, Tanh, Power, Sin, Cos>{});
  check_binary(TypeList<Add, Sub, Mul, Div, SquaredDifference, Pow>{});
}
