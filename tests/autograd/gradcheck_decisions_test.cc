// Programs whose decisions, state or errors were to fool the checker: docs/gradient-checking.md.
#include <cmath>
#include <stdexcept>

#include <doctest/doctest.h>

#include "lies.h"

using namespace moegrad;
using namespace moegrad::test;

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

TEST_CASE("a stopped gradient is no derivative") {
  const Function f = [](Var x) { return x * stop_gradient(x); };
  CHECK(check(f, row({0.3, 0.2})).verdict == Verdict::pass);
  CHECK(check(f, row({0.3, 0.2}), {1.0}, {.hold = Decisions::Hold::nothing}).verdict ==
        Verdict::fail);
  // One that changes nothing may be there.
  const Function stable = [](Var x) {
    const Var largest = stop_gradient(max(x, 0));
    return log(sum(exp(x - largest))) + largest;
  };
  expect_judged(stable, row({0.3, 0.2}));
  CHECK(check(stable, row({0.3, 0.2}), {1.0}, {.hold = Decisions::Hold::nothing}).verdict ==
        Verdict::pass);
  // Noise is the same in each run, held or not.
  const Function noisy = [](Var x) { return dropout(x * x, 0.3); };
  for (const auto hold : {Decisions::Hold::all, Decisions::Hold::nothing}) {
    CHECK(check(noisy, row({0.3, 0.2, 0.7}), {1.0}, {.hold = hold}).verdict == Verdict::pass);
  }
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
          row({0.3}), {1.0}, {.hold = Decisions::Hold::nothing}),
      "[decisions] 'mine' is given from within a program that is being checked. Give it before the "
      "run.",
      Error);
}

TEST_CASE("a selection that is not held and comes out otherwise is another cell") {
  const GradcheckReport r = check(
      [](Var x) {
        return top_k(reshape(x, {1, 3}), 1).values;
      },
      row({0.3, 0.3 - 1e-6, 0.1}), {1.0}, {.hold = Decisions::Hold::nothing});
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
        row({0.3}), {factor});
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
      row({0.3}), {0.0});
  CHECK(r.verdict == Verdict::inconclusive);
}
