// Functions whose shape at the point is much finer than the first steps of the differences: the
// checker finds it, or says that it does not know.
#include <cmath>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "lies.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

Verdict verdict(const Scalar& f, const Scalar& slope, double x) {
  return gradcheck(
             [&](Tape&, std::span<const Var> in) {
               return apply<ByHand>({in[0]}, {&f, &slope});
             },
             {row({x})})
      .verdict;
}

// Neither judged wrongly.
void expect_no_error(const Scalar& f, const Scalar& slope, const Scalar& wrong, double x) {
  CHECK(verdict(f, slope, x) != Verdict::fail);
  CHECK(verdict(f, wrong, x) != Verdict::pass);
}
void expect_found(const Scalar& f, const Scalar& slope, const Scalar& wrong, double x) {
  CHECK(verdict(f, slope, x) == Verdict::pass);
  CHECK(verdict(f, wrong, x) == Verdict::fail);
}

Scalar constant(double c) {
  return [c](double) { return c; };
}

}  // namespace

TEST_CASE("a kink by hand near the point is found, or not known") {
  const Scalar f = [](double x) { return x > 0.3 ? 2.0 * x : x + 0.3; };
  const Scalar slope = [](double x) { return x > 0.3 ? 2.0 : 1.0; };
  for (const double distance : {1e-4, 1e-6, 1e-7, 3e-8, 1e-8}) {
    CAPTURE(distance);
    expect_found(f, slope, constant(1.5), 0.3 + distance);
    expect_found(f, slope, constant(1.5), 0.3 - distance);
  }
  for (const double distance : {1e-9, 1e-10, 1e-11, 1e-12, 0.0}) {
    CAPTURE(distance);
    expect_no_error(f, slope, constant(1.5), 0.3 + distance);
  }
}

TEST_CASE("a kink by hand at the point is not known, whatever its gradient is said to be") {
  const Scalar relu = [](double x) { return x > 0.0 ? x : 0.0; };
  for (const double slope : {0.0, 0.5, 1.0}) {
    CHECK(verdict(relu, constant(slope), 0.0) == Verdict::inconclusive);
  }
  CHECK(verdict([](double x) { return std::sqrt(std::abs(x)); }, constant(0.0), 0.0) ==
        Verdict::inconclusive);
  // A kink of a hundredth of the slope, on a curve.
  CHECK(verdict([](double x) { return std::sin(x) + 0.01 * std::abs(x - 0.3); },
                [](double x) { return std::cos(x); }, 0.3) == Verdict::inconclusive);
  // None.
  expect_no_error([](double x) { return x * std::abs(x); },
                  [](double x) { return 2.0 * std::abs(x); }, constant(0.1), 0.0);
  expect_found([](double x) { return x * x; }, [](double x) { return 2.0 * x; }, constant(0.1),
               0.0);
}

TEST_CASE("a staircase has slope 0, not that of its steps' edges") {
  for (const double width : {1e-1, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8}) {
    CAPTURE(width);
    const Scalar stairs = [=](double x) { return std::floor(x / width) * width; };
    expect_found(stairs, constant(0.0), constant(1.0), 0.3 + 0.4 * width);
  }
  for (const double width : {1e-9, 1e-10, 1e-11}) {
    CAPTURE(width);
    const Scalar stairs = [=](double x) { return std::floor(x / width) * width; };
    expect_no_error(stairs, constant(0.0), constant(1.0), 0.3 + 0.4 * width);
  }
}

TEST_CASE("a wave of small height has the slope it has") {
  for (const double w : {1e3, 1e5, 1e6, 1e7}) {
    CAPTURE(w);
    expect_found([=](double x) { return x + std::sin(w * x) / w; },
                 [=](double x) { return 1.0 + std::cos(w * x); }, constant(1.0), 0.3);
  }
  for (const double w : {3e7, 1e8, 3e8, 1e9, 1e10, 1e11}) {
    CAPTURE(w);
    expect_no_error([=](double x) { return x + std::sin(w * x) / w; },
                    [=](double x) { return 1.0 + std::cos(w * x); }, constant(1.0), 0.3);
  }
}

TEST_CASE("a wave of small slope is not passed over") {
  for (const double e : {1e-2, 1e-4, 9e-6, 5e-6, 1e-6, 3e-7}) {
    for (const double w : {1e3, 3e3, 1e4, 1e5, 1e6}) {
      CAPTURE(e);
      CAPTURE(w);
      expect_no_error([=](double x) { return x + e * std::sin(w * (x - 0.3)) / w; },
                      [=](double x) { return 1.0 + e * std::cos(w * (x - 0.3)); }, constant(1.0),
                      0.3);
    }
  }
  // What rounding shows is known to 1e-7.
  expect_found([](double x) { return x + 1e-6 * std::sin(1e4 * x) / 1e4; },
               [](double x) { return 1.0 + 1e-6 * std::cos(1e4 * x); }, constant(1.0), 0.3);
}

TEST_CASE("an expected loss with a wave of small slope is not called biased") {
  for (const double e : {1e-2, 9e-6, 1e-6}) {
    for (const double w : {1e3, 3e3, 1e5, 1e6}) {
      CAPTURE(e);
      CAPTURE(w);
      const Scalar f = [=](double x) { return x + e * std::sin(w * x) / w; };
      const Scalar slope = [=](double x) { return 1.0 + e * std::cos(w * x); };
      const Expectation result = expectation(
          [&](Tape& t, std::span<const Var> in) {
            const Tensor coin = t.decisions().bernoulli(
                "coin", Tensor::full({1}, 0.5, DType::f64, Device::cpu), t.rng());
            return sum(t.constant(coin.to(DType::f64)) * apply<ByHand>({in[0]}, {&f, &slope}));
          },
          {row({0.3})});
      INFO(result.text());
      CHECK(!result.biased());
    }
  }
}

TEST_CASE("a step of small width beside the point does not hide its slope") {
  for (const double width : {1e-3, 1e-5, 1e-6, 1e-7}) {
    CAPTURE(width);
    const auto scaled = [=](double x) { return (x - 0.3) / width; };
    expect_found([=](double x) { return x + width * std::tanh(scaled(x)); },
                 [=](double x) { return 1.0 + std::pow(std::cosh(scaled(x)), -2); }, constant(1.0),
                 0.3 + 0.5 * width);
  }
}

TEST_CASE("a hill at 0 of small width is found, or not known") {
  for (const double width : {1e-3, 1e-6, 1e-9, 1e-11, 1e-12}) {
    CAPTURE(width);
    const auto hill = [=](double x) { return std::exp(-std::pow(x / width, 2)); };
    const Scalar f = [=](double x) { return x + x * hill(x); };
    const Scalar slope = [=](double x) {
      return 1.0 + hill(x) * (1.0 - 2.0 * std::pow(x / width, 2));
    };
    if (width > 1e-10) expect_found(f, slope, constant(1.0), 0.0);
    expect_no_error(f, slope, constant(1.0), 0.0);
  }
}

TEST_CASE("a function with a pole near the point has its slope there") {
  for (const double x : {1e-14, 1e-16, 1e-20, 1e-50, 1e-100}) {
    CAPTURE(x);
    expect_found([](double v) { return 1.0 / v; }, [](double v) { return -1.0 / (v * v); },
                 [](double v) { return -1.01 / (v * v); }, x);
  }
}

TEST_CASE("what a large term absorbs was not seen") {
  const Scalar identity = [](double x) { return x; };
  for (const double factor : {0.0, 1.0}) {
    const Scalar slope = constant(factor);
    for (const double large : {1e12, 1e14, 1e16, 1e17}) {
      CAPTURE(large);
      const GradcheckReport r = gradcheck(
          [&](Tape&, std::span<const Var> in) {
            return (apply<ByHand>({tanh(in[0])}, {&identity, &slope}) + large) - large;
          },
          {row({0.3})});
      CHECK(r.verdict != (factor == 1.0 ? Verdict::fail : Verdict::pass));
    }
  }
}

TEST_CASE("a gradient that underflows is not wrong") {
  const Verdict v =
      gradcheck([](Tape&, std::span<const Var> in) { return softplus(in[0]); }, {row({-740.0})})
          .verdict;
  CHECK(v != Verdict::fail);
}

TEST_CASE("a decision that holds a rounded copy of a number is no cell to stay in") {
  const auto check = [](Decisions::Hold hold) {
    return gradcheck(
               [](Tape& tape, std::span<const Var> in) {
                 const Tensor x = in[0].value();
                 const Tensor q = tape.decisions().decide("q", DType::i32, x.shape(), [&] {
                   return Tensor::full(x.shape(), std::round(x.at(0) * 1e9), DType::i32,
                                       Device::cpu);
                 });
                 return in[0] * tape.constant(Tensor::full(x.shape(), 1e-9 * q.at(0), DType::f64,
                                                           Device::cpu));
               },
               {row({0.3})}, {.hold = hold})
        .verdict;
  };
  CHECK(check(Decisions::Hold::all) == Verdict::pass);  // a surrogate, given its decision
  CHECK(check(Decisions::Hold::nothing) != Verdict::pass);
}

TEST_CASE("the report's worst element and its numbers belong together") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> in) {
        if (in[0].value().at(1) != 0.2) throw Error("[test] no");
        return tanh(in[0]);
      },
      {row({0.3, 0.2})});
  CHECK(r.verdict == Verdict::inconclusive);
  CHECK(r.inputs[0].worst == 1);
  CHECK(r.text().find("worst at 1 (every step ends in an error: [test] no)") != std::string::npos);
}
