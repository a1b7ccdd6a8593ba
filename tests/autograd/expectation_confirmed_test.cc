// A bias is confirmed by other steps: what that costs, and the rounding and the shapes that it is
// not to be fooled by.
#include <cmath>

#include <doctest/doctest.h>

#include "tests/autograd/expectation_programs.h"
#include "tests/autograd/lies.h"

using namespace moegrad;
using namespace moegrad::expectation_test;
using moegrad::test::Scalar;

namespace {

// How often the program is run.
std::int64_t runs_of(const Program& program, const Tensor& x, bool biased) {
  std::int64_t runs = 0;
  const Expectation e = of(
      [&](Tape& t, In in) {
        ++runs;
        return program(t, in);
      },
      {x});
  CHECK(e.exact);
  CHECK(e.unknown.empty());
  CHECK(e.biased() == biased);
  return runs;
}

// f with a slope that is right, or wrong by a factor.
Expectation of_function(const Scalar& f, const Scalar& slope, double x, double factor = 1.0) {
  const Scalar said = [&](double v) { return factor * slope(v); };
  return of(
      [&](Tape&, In in) {
        return sum(apply<test::ByHand>({in[0]}, {&f, &said}));
      },
      {list({x})});
}

}  // namespace

TEST_CASE("a bias costs at most three times the runs of none") {
  // The score function of three draws, its gradient multiplied.
  const auto score = [](double factor) -> Program {
    return [factor](Tape& t, In x) {
      const Var p = softmax(x[0]);
      const Tensor drawn = t.decisions().categorical("draw", p.value(), t.rng());
      const Var log_p = sum(log(take_columns(p, drawn.reshape({3, 1}))));
      const Var cost = square(sum(t.constant(drawn.to(DType::f64))));
      return cost + factor * cost * (log_p - stop_gradient(log_p));
    };
  };
  const Tensor logits = Rng{2, 0, 0}.uniform({3, 3}, DType::f64, -1.0, 1.0);
  const std::int64_t unbiased = runs_of(score(1.0), logits, false);
  for (const double factor : {-1.0, 0.0, 0.5, 0.99, 1.0001}) {
    CAPTURE(factor);
    CHECK(runs_of(score(factor), logits, true) <= 3 * unbiased);
  }
  // x exp(x), a part of its gradient stopped.
  const auto product = [](bool stopped) -> Program {
    return [stopped](Tape&, In x) {
      const Var e = exp(x[0]);
      return sum(x[0] * (stopped ? stop_gradient(e) : e));
    };
  };
  CHECK(runs_of(product(true), logits, true) <= 3 * runs_of(product(false), logits, false));
}

TEST_CASE("rounding within the function is no bias") {
  for (const double by : {4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0}) {
    CAPTURE(by);
    for (const double x : {-0.9, -0.31, 0.17, 0.6, 0.93}) {
      CAPTURE(x);
      const Scalar f = [=](double v) { return std::log(1.0 + std::exp(v - by)); };
      const Scalar slope = [=](double v) { return 1.0 / (1.0 + std::exp(by - v)); };
      CHECK(!of_function(f, slope, x).biased());
      if (by <= 16.0) CHECK(of_function(f, slope, x, 1.01).biased());
    }
  }
}

TEST_CASE("a bias that other steps are not sure of is not distinguishable from 0") {
  for (const double x :
       {9381775392.7421627, 485855684.61055022, 21468079351.044167, 2228727100.8750172, 448755926.0,
        2955144285.3117509, 290389.38042072166, 79069.074663726235, 9976872666.045166,
        627462742.9599632, 7513177030.7777967, 15021.949299535945}) {
    CAPTURE(x);
    const double at = std::floor(x);
    const Scalar f = [=](double v) { return std::tanh(v - at); };
    const Scalar slope = [=](double v) { return 1.0 - std::pow(std::tanh(v - at), 2); };
    CHECK(!of_function(f, slope, x).biased());
    CHECK(of_function(f, slope, x, 1.01).biased());
  }
}

TEST_CASE("a jump or a narrow slope beside the point does not hide a bias") {
  for (const double distance : {1e-2, 1e-4, 1e-6, 3e-7}) {
    CAPTURE(distance);
    for (const double x : {-0.8768, 0.1393, 0.5391}) {
      CAPTURE(x);
      const Scalar jump = [=](double v) { return std::sin(v) + (v > x + distance ? 1e-9 : 0.0); };
      const Scalar cosine = [](double v) { return std::cos(v); };
      const Scalar bend = [=](double v) {
        return v + 0.1 * distance * std::tanh((v - x) / distance + 0.8);
      };
      const Scalar of_bend = [=](double v) {
        return 1.0 + 0.1 * std::pow(std::cosh((v - x) / distance + 0.8), -2);
      };
      for (const auto& [f, slope] : {std::pair{jump, cosine}, std::pair{bend, of_bend}}) {
        CHECK(!of_function(f, slope, x).biased());
        for (const double factor : {0.0, 1.01, 2.0}) {
          CAPTURE(factor);
          const Expectation e = of_function(f, slope, x, factor);
          INFO(e.text());
          CHECK(e.biased());
        }
      }
    }
  }
}
