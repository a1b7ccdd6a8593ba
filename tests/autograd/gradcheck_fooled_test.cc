// Programs of known gradient that were built to fool the checker: docs/gradient-checking.md.
#include <cmath>
#include <limits>
#include <numbers>

#include <doctest/doctest.h>

#include "lies.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

Var plus(Var x, double constant) {
  return x + x.tape().constant(Tensor::full(x.shape(), constant, DType::f64, Device::cpu));
}

// x and a constant behind it.
Var beside(Var x, double constant) {
  const Var parts[] = {x, x.tape().constant(Tensor::full({1}, constant, DType::f64, Device::cpu))};
  return concat(parts, 0);
}

}  // namespace

TEST_CASE("differences that overflow certify nothing") {
  expect_judged([](Var x) { return exp(1e6 * x); }, row({1e-6}));
  expect_judged([](Var x) { return exp(1e6 * x); }, row({1e-6, -2e-6, 3e-7}));
}

TEST_CASE("an output of another size does not hide the others") {
  for (const double constant : {-3.4e38, 1e11, -1e30, 1e300}) {
    CAPTURE(constant);
    expect_judged([=](Var x) { return beside(tanh(x), constant); }, row({0.3, -0.7}));
  }
  // One of the outputs is masked, as logits are.
  expect_judged(
      [](Var x) {
        return sin(x) + x.tape().constant(row({0.0, -1e30, 0.0}));
      },
      row({0.3, -0.7, 0.2}));
}

TEST_CASE("what rounding hides everywhere is not certified, a zero no more than others") {
  for (const double constant : {-3.4e38, 1e30, 1e18}) {
    CAPTURE(constant);
    for (const double factor : {0.0, 1.0, 2.0}) {
      const GradcheckReport r =
          check([=](Var x) { return plus(x, constant); }, row({0.3, -0.7}), {factor});
      INFO(r.text());
      CHECK(r.verdict == Verdict::inconclusive);
    }
  }
  // Here differences can see a gradient of 1.
  CHECK(check([](Var x) { return plus(x, 1e11); }, row({0.3}), {0.0}).verdict != Verdict::pass);
  const GradcheckReport mask = check(
      [](Var x) {
        return x + x.tape().constant(row({0.0, -1e30}));
      },
      row({0.3, -0.7}));
  CHECK(mask.verdict == Verdict::pass);
  CHECK(mask.inputs[0].compared == 12);
  CHECK(mask.inputs[0].excused == 6);
  CHECK(mask.text().find("6 of 12 numbers are hidden by rounding") != std::string::npos);
}

TEST_CASE("outputs that are infinite everywhere are left out, and it is said") {
  const double infinity = std::numeric_limits<double>::infinity();
  const Function f = [=](Var x) {
    return log_softmax(x + x.tape().constant(row({0.0, -infinity, 0.0})));
  };
  expect_judged(f, row({0.3, 0.1, -0.4}));
  const GradcheckReport r = check(f, row({0.3, 0.1, -0.4}));
  CHECK(r.left_out == 1);
  CHECK(r.text().find("left out: outputs that are infinite at every point (1)") !=
        std::string::npos);
  CHECK_THROWS_AS(check([=](Var x) { return plus(x, infinity); }, row({0.3})), Error);
}

TEST_CASE("steps fit each element") {
  for (const double x : {1e-2, 1e-4, 1e-6, 1e-8, 1e-12}) {
    CAPTURE(x);
    expect_judged([](Var v) { return log(v); }, row({x, 1.0}));
    expect_judged([](Var v) { return sqrt(v); }, row({x, 1.0}));
    expect_judged([](Var v) { return exp(-log(v)); }, row({x}));
  }
  expect_judged([](Var x) { return tanh(x); }, row({1e4, 0.3}));
  expect_judged([](Var x) { return log(x); }, row({1e6, 1.0}));
  // An entropy with a rare outcome.
  expect_judged([](Var p) { return sum(p * log(p)); }, row({1e-4, 0.4, 0.5999}));
  // A logistic loss of a raw feature.
  expect_judged(
      [](Var w) {
        return softplus(w * w.tape().constant(row({8e4, 1.0, -3e4})));
      },
      row({1e-5, 0.2, 2e-5}));
  expect_judged([](Var w) { return softplus(8e4 * w); }, row({0.0}));
  expect_judged([](Var w) { return tanh(8e4 * w); }, row({1e-5, 0.0}));
  // A period that divides the steps 0.02 and their halves.
  expect_judged([](Var t) { return sin(2.0 * std::numbers::pi * 200.0 * t); }, row({0.3}));
  // A hill that all of the first steps miss.
  expect_judged([](Var x) { return exp(-square(1e5 * x)); }, row({1e-5, 0.5e-5}));
}

TEST_CASE("of many elements, moved together, each moves by its own scale") {
  Tensor x = Rng{3, 1, 0}.uniform({300}, DType::f64, 0.5, 2.0);
  x.write<double>()[7] = 1e6;
  x.write<double>()[8] = 1e-5;
  expect_judged([](Var v) { return log(v); }, x);
}

TEST_CASE("nothing to compare is an error") {
  const Function f = [](Var x) { return tanh(x); };
  CHECK_THROWS_WITH_AS(check(f, row({0.3}), {1.0}, {.cotangents = 0}),
                       "[gradcheck] 0 cotangents and 5 directions. Use at least one of each.",
                       Error);
  CHECK_THROWS_AS(check(f, row({0.3}), {1.0}, {.directions = 0}), Error);
  CHECK_THROWS_WITH_AS(
      check(f, Tensor::zeros({0}, DType::f64, Device::cpu)),
      "[gradcheck] none of the 1 inputs is floating and has elements: nothing to compare. Give one "
      "of f64.",
      Error);
  CHECK_THROWS_AS(check([](Var x) { return slice(x, 0, 0, 0); }, row({0.3})), Error);
  CHECK_THROWS_AS(gradcheck([](Tape& t, std::span<const Var>) { return t.constant(row({1.0})); },
                            std::span<const Tensor>()),
                  Error);
}

TEST_CASE("a dead gradient is said") {
  const GradcheckReport r = check([](Var x) { return 0.0 * x + 1.0; }, row({0.3, 0.2}));
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.inputs[0].dead);
  CHECK(r.text().find("dead: gradient and differences are zero everywhere") != std::string::npos);
  CHECK(!check([](Var x) { return x * x; }, row({0.3, 0.0})).inputs[0].dead);
}

TEST_CASE("a NaN beside a worse element is not overwritten") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> in) {
        return apply<Lie>({in[0]}, {std::numeric_limits<double>::quiet_NaN()}) + in[1];
      },
      {row({0.3, 0.2}), row({0.1, 0.5})});
  CHECK(r.verdict == Verdict::fail);
  CHECK(r.inputs[0].reason == "the gradient is not finite");
  CHECK(r.inputs[1].verdict == Verdict::pass);
}

TEST_CASE("a steep output does not hide a flat one, whatever its value is here") {
  for (const double steep : {1e5, 1e8, 1e12}) {
    CAPTURE(steep);
    expect_judged([=](Var x) { return concat({steep * (x - 0.3), tanh(x)}, 0); }, row({0.3}));
    const GradcheckReport lie = gradcheck(
        [=](Tape&, std::span<const Var> in) {
          return concat({steep * (in[0] - 0.3), tanh(apply<Lie>({in[0]}, {0.0}))}, 0);
        },
        {row({0.3})});
    CHECK(lie.verdict == Verdict::fail);
  }
}

TEST_CASE("of many elements a large one, or one with a large gradient, does not hide the others") {
  const auto check_rest = [](double large, double factor_of_rest, double slope_of_large) {
    Tensor x = Rng{3, 1, 0}.uniform({300}, DType::f64, 0.5, 2.0);
    x.write<double>()[7] = large;
    return gradcheck(
        [&](Tape&, std::span<const Var> in) {
          const Var lie = apply<Lie>({in[0]}, {factor_of_rest});
          return sum(concat(
              {slice(lie, 0, 0, 7), slope_of_large * slice(in[0], 0, 7, 8), slice(lie, 0, 8, 300)},
              0));
        },
        {x});
  };
  for (const double large : {1.0, 1e6, 1e9}) {
    CAPTURE(large);
    CHECK(check_rest(large, 1.0, 1.0).verdict == Verdict::pass);
    CHECK(check_rest(large, 0.0, 1.0).verdict == Verdict::fail);
    CHECK(check_rest(large, -1.0, 1.0).verdict == Verdict::fail);
    CHECK(check_rest(large, 1.001, 1.0).verdict == Verdict::fail);
  }
  CHECK(check_rest(1.0, 0.0, 1e9).verdict == Verdict::fail);
}

TEST_CASE("what agrees by grace of the rounding alone is not called seen") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> in) {
        return sum(concat({1e14 * in[0], apply<Lie>({in[1]}, {0.0})}, 0));
      },
      {row({0.3}), row({0.7})});
  CHECK(r.inputs[0].verdict == Verdict::pass);
  CHECK(r.inputs[1].verdict != Verdict::pass);
}

TEST_CASE("elements that are not finite are not moved, and it is said") {
  const double infinity = std::numeric_limits<double>::infinity();
  const GradcheckReport r =
      gradcheck([](Tape&, std::span<const Var> in) { return tanh(in[0]) + in[1] * 0.0; },
                {row({0.3, infinity}), row({1.0, 2.0})});
  CHECK(r.inputs[0].verdict == Verdict::pass);
  CHECK(r.inputs[0].not_moved == 1);
  CHECK(check([](Var x) { return tanh(x); }, row({infinity})).verdict == Verdict::inconclusive);
}

TEST_CASE("an output that is computed in f32 inside is said to jump") {
  const Scalar square = [](double v) {
    const float x = static_cast<float>(v);
    return static_cast<double>(x * x);
  };
  const Scalar slope = [](double v) { return 2.0 * v; };
  const GradcheckReport r = check(
      [&](Var x) {
        return apply<ByHand>({x}, {&square, &slope});
      },
      row({0.3}));
  INFO(r.text());
  CHECK(r.verdict == Verdict::fail);
  CHECK(r.text().find("the output jumps: is it computed in f32") != std::string::npos);
}
