// Programs of known gradient that were built to fool the checker: docs/gradient-checking.md.
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

// x, with a gradient that is dropped (factor 0) or wrong by a factor.
struct Lie {
  static constexpr std::string_view name = "lie", summary = "x, its gradient multiplied";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    double factor;
  };
  static Tensor forward(Forward& in, const Attributes&) { return in[0].clone(); }
  static void backward(Backward& b, const Attributes& a) {
    Tensor dx = Tensor::zeros(b.dy().shape(), DType::f64, Device::cpu);
    for (std::int64_t i = 0; i < dx.numel(); ++i) {
      dx.write<double>()[i] = a.factor == 0.0 ? 0.0 : a.factor * b.dy().at(i);
    }
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};

// sin x: an operation of a user's.
struct Sine {
  static constexpr std::string_view name = "sine", summary = "sin x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) {
    Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) v = std::sin(v);
    return y;
  }
  static void backward(Backward& b, const NoAttributes&) {
    Tensor dx = b.dy().clone();
    for (std::int64_t i = 0; i < dx.numel(); ++i) {
      dx.write<double>()[i] *= std::cos(b.input(0).at(i));
    }
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};
Var sine(Var x) { return apply<Sine>({x}); }

// x^2, computed in f32: a staircase.
struct SquareInFloat {
  static constexpr std::string_view name = "square_in_float", summary = "x^2";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) {
    Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) {
      const float x = static_cast<float>(v);
      v = static_cast<double>(x * x);
    }
    return y;
  }
  static void backward(Backward& b, const NoAttributes&) {
    Tensor dx = b.dy().clone();
    for (std::int64_t i = 0; i < dx.numel(); ++i) {
      dx.write<double>()[i] *= 2.0 * b.input(0).at(i);
    }
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};

using Function = std::function<Var(Var)>;

GradcheckReport check(const Function& f, const Tensor& x, double lie = 1.0,
                      const GradcheckOptions& options = {}) {
  return gradcheck(
      [&](Tape&, std::span<const Var> in) {
        return f(lie == 1.0 ? in[0] : apply<Lie>({in[0]}, {lie}));
      },
      {x}, options);
}

// Right passes, dropped and wrong by a thousandth fail.
void expect_judged(const Function& f, const Tensor& x) {
  const GradcheckReport right = check(f, x);
  INFO(right.text());
  CHECK(right.verdict == Verdict::pass);
  for (const double factor : {0.0, 1.001, -1.0}) {
    const GradcheckReport wrong = check(f, x, factor);
    INFO(factor, " ", wrong.text());
    CHECK(wrong.verdict == Verdict::fail);
  }
}

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
        return sine(x) + x.tape().constant(row({0.0, -1e30, 0.0}));
      },
      row({0.3, -0.7, 0.2}));
}

TEST_CASE("what rounding hides everywhere is not certified, a zero no more than others") {
  for (const double constant : {-3.4e38, 1e30, 1e18}) {
    CAPTURE(constant);
    for (const double factor : {0.0, 1.0, 2.0}) {
      const GradcheckReport r =
          check([=](Var x) { return plus(x, constant); }, row({0.3, -0.7}), factor);
      INFO(r.text());
      CHECK(r.verdict == Verdict::inconclusive);
    }
  }
  // Here differences can see a gradient of 1.
  CHECK(check([](Var x) { return plus(x, 1e11); }, row({0.3}), 0.0).verdict != Verdict::pass);
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
  expect_judged([](Var t) { return sine(2.0 * std::numbers::pi * 200.0 * t); }, row({0.3}));
  // A hill that all of the first steps miss.
  expect_judged([](Var x) { return exp(-square(1e5 * x)); }, row({1e-5, 0.5e-5}));
}

TEST_CASE("of many elements, moved together, each moves by its own scale") {
  Tensor x = Rng{3, 1, 0}.uniform({300}, DType::f64, 0.5, 2.0);
  x.write<double>()[7] = 1e6;
  x.write<double>()[8] = 1e-5;
  expect_judged([](Var v) { return log(v); }, x);
}

TEST_CASE("a moved point that asks for other decisions is another cell") {
  const Function more = [](Var x) {
    const Var y = x * x;
    return x.value().at(0) > 0.301 ? y + stop_gradient(y) - stop_gradient(y) : y;
  };
  expect_judged(more, row({0.3, 0.2}));
  const Function other = [](Var x) {
    const Tensor place = top_k_indices(reshape(x, {1, 2}), x.value().at(0) > 0.301 ? 2 : 1);
    return x * x + static_cast<double>(place.numel()) * 0.0;
  };
  expect_judged(other, row({0.3, 0.2}));
  // Within reach of every step: nothing can be said.
  const GradcheckReport r = check(
      [](Var x) { return x.value().at(0) == 0.3 ? x * x : x * stop_gradient(x); }, row({0.3}));
  CHECK(r.verdict == Verdict::inconclusive);
  CHECK(r.inputs[0].reason == "every step asks for other decisions");
}

TEST_CASE("decisions of one kind that change places are noticed") {
  // Stops the larger one first: the same number, kind and shape of decisions on both sides.
  const Function f = [](Var x) {
    Var a = slice(x, 0, 0, 1);
    Var b = slice(x, 0, 1, 2);
    if (a.value().at(0) < b.value().at(0)) std::swap(a, b);
    const Var high = stop_gradient(a);
    const Var low = stop_gradient(b);
    return square(a) * high + b * low;
  };
  expect_judged(f, row({0.301, 0.3}));
}

TEST_CASE("a program cannot write what was recorded") {
  const Function scaled = [](Var x) {
    Tape& tape = x.tape();
    Tensor noise = tape.decisions().decide(
        "noise", DType::f64, x.shape(), [&] { return tape.rng().normal(x.shape(), DType::f64); });
    for (double& v : noise.write_values<double>()) v *= 3.0;  // in place, in each run
    return x * tape.constant(noise);
  };
  expect_judged(scaled, row({0.3, 0.2}));
  Decisions given;
  const Tensor value = row({1.0, 2.0});
  given.give("noise", value);
  for (int run = 0; run < 2; ++run) {
    Tape tape({.decisions = &given});
    const Var y = scaled(tape.variable(row({1.0, 1.0})));
    CHECK(y.value().at(1) == 6.0);
  }
  CHECK(value.at(1) == 2.0);
}

TEST_CASE("numbers drawn straight from the tape's generator are the same in every run") {
  expect_judged(
      [](Var x) {
        Tape& tape = x.tape();
        const Var held = dropout(x, 0.25);
        return held * tape.constant(tape.rng().normal(x.shape(), DType::f64));
      },
      row({0.3, 0.2, 0.9, -0.4}));
}

TEST_CASE("nothing to compare is an error") {
  const Function f = [](Var x) { return tanh(x); };
  CHECK_THROWS_WITH_AS(check(f, row({0.3}), 1.0, {.cotangents = 0}),
                       "[gradcheck] 0 cotangents and 5 directions. Use at least one of each.",
                       Error);
  CHECK_THROWS_AS(check(f, row({0.3}), 1.0, {.directions = 0}), Error);
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

TEST_CASE("a stopped gradient is no derivative") {
  const Function f = [](Var x) { return x * stop_gradient(x); };
  CHECK(check(f, row({0.3, 0.2})).verdict == Verdict::pass);
  CHECK(check(f, row({0.3, 0.2}), 1.0, {.hold = Decisions::Hold::nothing}).verdict ==
        Verdict::fail);
  // One that changes nothing may be there.
  const Function stable = [](Var x) {
    const Var largest = stop_gradient(max(x, 0));
    return log(sum(exp(x - largest))) + largest;
  };
  expect_judged(stable, row({0.3, 0.2}));
  CHECK(check(stable, row({0.3, 0.2}), 1.0, {.hold = Decisions::Hold::nothing}).verdict ==
        Verdict::pass);
  // Noise is the same in each run, held or not.
  const Function noisy = [](Var x) { return dropout(x * x, 0.3); };
  for (const auto hold : {Decisions::Hold::all, Decisions::Hold::nothing}) {
    CHECK(check(noisy, row({0.3, 0.2, 0.7}), 1.0, {.hold = hold}).verdict == Verdict::pass);
  }
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

TEST_CASE("a decision that the program gives itself is refused") {
  CHECK_THROWS_WITH_AS(
      check(
          [](Var x) {
            Decisions& d = x.tape().decisions();
            d.give("mine", x.value());
            return x * x.tape().constant(
                           d.decide("mine", DType::f64, x.shape(), [&] { return x.value(); }));
          },
          row({0.3}), 1.0, {.hold = Decisions::Hold::nothing}),
      "[decisions] 'mine' is given from within a program that is being checked. Give it before the "
      "run.",
      Error);
}

TEST_CASE("a selection that is not held and comes out otherwise is another cell") {
  const GradcheckReport r = check(
      [](Var x) {
        return top_k(reshape(x, {1, 3}), 1).values;
      },
      row({0.3, 0.3 - 1e-6, 0.1}), 1.0, {.hold = Decisions::Hold::nothing});
  CHECK(r.verdict == Verdict::pass);
}

TEST_CASE("state that begins to act during the check is found out") {
  int calls = 0;
  const GradcheckReport r = gradcheck(
      [&](Tape&, std::span<const Var> x) { return tanh(x[0]) * (++calls > 5 ? 2.0 : 1.0); },
      {row({0.3})});
  CHECK(r.verdict == Verdict::inconclusive);
}

TEST_CASE("what a program throws, or another shape, at a moved point is another step") {
  expect_judged(
      [](Var x) {
        if (x.value().at(0) > 0.301) throw std::domain_error("outside");
        return tanh(x);
      },
      row({0.3}));
  expect_judged(
      [](Var x) {
        if (x.value().at(0) > 0.301) throw 42;
        return tanh(x);
      },
      row({0.3}));
  expect_judged(
      [](Var x) {
        const Var y = tanh(x);
        return x.value().at(0) > 0.301 ? slice(y, 0, 0, 1) : y;
      },
      row({0.3, 0.2}));
}

TEST_CASE("a program that asks whether gradients are wanted is found out") {
  for (const double factor : {0.0, 1.0}) {
    const GradcheckReport r = check(
        [](Var x) {
          const Var y = tanh(x);
          return x.tape().options().gradients ? y : stop_gradient(y) * 2.0;
        },
        row({0.3}), factor);
    CHECK(r.verdict == Verdict::inconclusive);
    CHECK(r.inputs[0].reason.starts_with("run without gradients, the program gave another output"));
  }
  // At moved points alone.
  const GradcheckReport r = check(
      [](Var x) {
        return x.tape().options().gradients || x.value().at(0) == 0.3
                   ? tanh(x)
                   : x.tape().constant(row({std::tanh(0.3)}));
      },
      row({0.3}), 0.0);
  CHECK(r.verdict == Verdict::inconclusive);
}

TEST_CASE("an output that is computed in f32 inside is said to jump") {
  const GradcheckReport r = check([](Var x) { return apply<SquareInFloat>({x}); }, row({0.3}));
  INFO(r.text());
  CHECK(r.verdict == Verdict::fail);
  CHECK(r.text().find("the output jumps: is it computed in f32") != std::string::npos);
}
