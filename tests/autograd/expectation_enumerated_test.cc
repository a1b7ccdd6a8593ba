// Programs of draws, enumerated, whose expectation and bias are known in closed form.
#include <cmath>
#include <stdexcept>

#include <doctest/doctest.h>

#include "tests/autograd/expectation_programs.h"

using namespace moegrad;
using namespace moegrad::expectation_test;

TEST_CASE("the same number as a Bernoulli draw is enumerated") {
  const auto coin = [](Tape& t, Var p) {
    return t.constant(t.decisions().bernoulli("coin", p.value(), t.rng()).to(DType::f64));
  };
  const double p = sigmoid_of(0.4);
  const Expectation none =
      of([&](Tape& t, In x) { return sum(3.0 * coin(t, sigmoid(x[0])) + 1.0); }, {list({0.4})});
  CHECK(none.exact);
  CHECK(none.outcomes == 2);
  CHECK(none.loss == doctest::Approx(3.0 * p + 1.0).epsilon(1e-14));
  check_reference(none, {3.0 * p * (1.0 - p)}, 1e-9);
  CHECK(none.biased());
  CHECK(none.bias == doctest::Approx(3.0 * p * (1.0 - p)).epsilon(1e-9));

  SUBCASE("straight-through: bias of (z + 1)^2 is (3 - 2 (p + 1)) p'") {
    const Expectation st = of(
        [&](Tape& t, In x) {
          const Var q = sigmoid(x[0]);
          return sum(square(straight_through(coin(t, q), q) + 1.0));
        },
        {list({0.4})});
    CHECK(st.bias == doctest::Approx(std::abs(1.0 - 2.0 * p) * p * (1.0 - p)).epsilon(1e-8));
  }
  SUBCASE("score function: unbiased, with three coins") {
    const Expectation score = of(
        [&](Tape& t, In x) {
          const Var q = sigmoid(x[0]);
          const Var z = coin(t, q);
          const Var cost = square(sum(z) - 0.5);
          const Var log_p = sum(z * log(q) + (1.0 - z) * log(1.0 - q));
          return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
        },
        {list({0.4, -1.0, 2.0})});
    CHECK(score.outcomes == 8);
    CHECK(score.exact);
    CHECK(!score.biased());
    CHECK(score.bias < 1e-9);
  }
}

TEST_CASE("dropout: enumerated within the limit, integrated above it") {
  // L = (sum of dropout(x))^2: E[L] = (sum x)^2 + p / (1 - p) sum x^2
  constexpr double kP = 0.25;
  const Program program = [](Tape&, In x) { return square(sum(dropout(x[0], kP))); };
  const Tensor x = list({0.5, -1.0, 2.0});
  std::vector<double> truth;
  for (int i = 0; i < 3; ++i) truth.push_back(2.0 * 1.5 + 2.0 * kP / (1.0 - kP) * x.at(i));
  const double loss = 1.5 * 1.5 + kP / (1.0 - kP) * (0.25 + 1.0 + 4.0);

  const Expectation exact = of(program, {x});
  CHECK(exact.outcomes == 8);
  CHECK(exact.loss == doctest::Approx(loss).epsilon(1e-13));
  check_exact_and_unbiased(exact, truth, 1e-8);

  ExpectationOptions options = few(4000);
  options.max_outcomes = 7;
  const Expectation sampled = of(program, {x}, options);
  CHECK(!sampled.exact);
  CHECK(sampled.noise);
  CHECK(sampled.outcomes == 4000);
  CHECK(std::abs(sampled.loss - loss) < 2.0 * sampled.loss_confidence);
  CHECK(!sampled.biased());
  check_reference(sampled, truth, 0.05);
}

TEST_CASE("dropout and a draw: both enumerated; with noise beside them, neither is lost") {
  const auto drawn = [](Tape& t, Var x) {
    const Var p = softmax(x);
    const Tensor i = t.decisions().categorical("draw", p.value(), t.rng()).reshape({1, 1});
    const Var cost = sum(take_columns(dropout(x, 0.5), i));
    const Var log_p = sum(log(take_columns(p, i)));
    return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
  };
  const Tensor x = row({0.3, -0.5});
  const Expectation exact = of([&](Tape& t, In in) { return drawn(t, in[0]); }, {x});
  CHECK(exact.exact);
  CHECK(exact.outcomes == 8);
  CHECK(!exact.biased());
  CHECK(exact.bias < 1e-9);
  // The first input's gradient of E = sum p_i x_i
  const double p = sigmoid_of(0.8);
  const double truth = p + p * (1.0 - p) * (0.3 + 0.5);
  CHECK(exact.true_gradient[0].at(0) == doctest::Approx(truth).epsilon(1e-9));

  const Expectation both = of(
      [&](Tape& t, In in) {
        return drawn(t, in[0]) + sum(in[0] * t.constant(t.rng().normal({1, 2}, DType::f64)));
      },
      {x}, few(1000));
  CHECK(!both.exact);
  CHECK(!both.biased());
  CHECK(both.loss == doctest::Approx(exact.loss).epsilon(0.5));
  CHECK(std::abs(both.true_gradient[0].at(0) - truth) <
        4.0 * std::sqrt(both.variance[0].at(0) / 1000.0));
}

TEST_CASE("a draw from a softmax at temperature 1e-4") {
  // E[L] = sum p_i c_i, p = softmax(x / 1e-4): the score function is unbiased.
  const Expectation e = of(
      [](Tape& t, In x) {
        const Var p = softmax(x[0] / 1e-4);
        const Tensor i = t.decisions().categorical("draw", p.value(), t.rng()).reshape({1, 1});
        const Var cost = take_columns(t.constant(row({1.0, -2.0, 0.5})), i);
        const Var log_p = log(take_columns(p, i));
        return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
      },
      {row({1e-4, 0.0, 0.5e-4})});
  CHECK(e.true_norm > 1000.0);
  CHECK(e.exact);
  CHECK(!e.biased());
  CHECK(e.bias < 1e-5 * e.true_norm);
  CHECK(e.bias_error < 1e-4 * e.true_norm);
}

TEST_CASE("a rare outcome of great weight, one that underflows, and one that is certain") {
  const auto score = [](Tape& t, Var q, double cost_of_one) {
    const Var z = t.constant(t.decisions().bernoulli("z", q.value(), t.rng()).to(DType::f64));
    const Var cost = sum(cost_of_one * z);
    const Var log_p = sum(z * log(q) + (1.0 - z) * log(1.0 - q));
    return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
  };
  const double p = sigmoid_of(-13.8);
  check_exact_and_unbiased(
      of([&](Tape& t, In x) { return score(t, sigmoid(x[0]), 1e6); }, {list({-13.8})}),
      {1e6 * p * (1.0 - p)}, 1e-6);
  const double q = sigmoid_of(0.5);
  const Expectation underflow = of(
      [](Tape& t, In x) {
        const Var s = softmax(x[0]);
        const Tensor i = t.decisions().categorical("draw", s.value(), t.rng()).reshape({1, 1});
        const Var cost = take_columns(t.constant(row({1.0, -2.0, 5.0})), i);
        const Var log_p = log(take_columns(s, i));
        return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
      },
      {row({0.3, -0.2, -800.0})});
  CHECK(underflow.outcomes == 2);
  check_exact_and_unbiased(underflow, {3.0 * q * (1.0 - q), -3.0 * q * (1.0 - q), 0.0}, 1e-8);
  // p = 1: no step stays inside on both sides, and nothing is claimed.
  const Expectation certain = of([&](Tape& t, In x) { return score(t, x[0], 2.0); }, {list({1.0})});
  CHECK(!certain.biased());
  CHECK(std::isnan(certain.bias));
}

TEST_CASE("a kink 1e-4 away") {
  const Program program = [](Tape&, In x) { return sum(relu(x[0] - 1e-4)); };
  check_exact_and_unbiased(of(program, {list({0.0})}), {0.0}, 1e-9);
  check_exact_and_unbiased(of(program, {list({2e-4})}), {1.0}, 1e-6);
  // At the kink there is no reference, and nothing is claimed.
  const Expectation at = of(program, {list({1e-4})});
  CHECK(!at.biased());
  CHECK(std::isnan(at.bias));
  CHECK(std::isinf(at.bias_error));
  CHECK(at.text().find("bias: unknown") != std::string::npos);

  SUBCASE("a selection that changes 1e-4 away") {
    const Expectation top = of([](Tape&, In x) { return sum(3.0 * top_k(x[0], 1).values); },
                               {row({0.1, 0.0999, -3.0})});
    CHECK(top.exact);
    CHECK(!top.biased());
    CHECK(top.true_gradient[0].at(0) == doctest::Approx(3.0));
  }
  SUBCASE("a comparison that jumps 1e-4 away") {
    const Expectation step = of(
        [](Tape& t, In x) {
          const Tensor up = greater(x[0], t.constant(list({1e-4})));
          return sum(where(up, 5.0 * x[0], x[0]));
        },
        {list({0.0})});
    check_exact_and_unbiased(step, {1.0}, 1e-6);
  }
  SUBCASE("a jump that no operation reports, 1e-3 away") {
    const Expectation hidden =
        of([](Tape& t,
              In x) { return sum(x[0]) + constant(t, x[0].value().at(0) > 1e-3 ? 5.0 : 0.0); },
           {list({0.0})});
    check_exact_and_unbiased(hidden, {1.0}, 1e-6);
  }
}

TEST_CASE("an input that is a probability itself: steps stay inside") {
  const Program program = [](Tape& t, In x) {
    const Var p = concat({x[0], 1.0 - x[0]}, 1);
    const Tensor i = t.decisions().categorical("draw", p.value(), t.rng()).reshape({1, 1});
    const Var cost = take_columns(t.constant(row({2.0, -1.0})), i);
    const Var log_p = log(take_columns(p, i));
    return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
  };
  for (const double p : {0.01, 0.99, 1e-4, 0.5}) {
    CAPTURE(p);
    const Expectation e = of(program, {row({p})});
    CHECK(e.outcomes == 2);
    check_exact_and_unbiased(e, {3.0}, 1e-6);
  }
  SUBCASE("of a coin") {
    const Expectation coin = of(
        [](Tape& t, In x) {
          return sum(
              t.constant(t.decisions().bernoulli("z", x[0].value(), t.rng()).to(DType::f64)));
        },
        {list({0.01, 0.5})});
    check_reference(coin, {1.0, 1.0}, 1e-6);
    CHECK(coin.bias == doctest::Approx(std::sqrt(2.0)));
  }
  SUBCASE("of a number compared with it") {
    const Expectation u =
        of([](Tape& t, In x) { return sum(threshold(t, x[0])); }, {list({0.01})}, few(20000));
    check_reference(u, {1.0}, 1.0);
    CHECK(u.biased());
  }
  SUBCASE("what the program refuses at the inputs themselves is passed on") {
    CHECK_THROWS_AS(of(program, {row({1.5})}), Error);
  }
}

TEST_CASE("scales: logarithm near 0, a large input, a large constant") {
  check_exact_and_unbiased(of([](Tape&, In x) { return sum(log(x[0])); }, {list({1e-3})}), {1e3},
                           1e-2);
  const double near = (1e4 + 0.3) - 1e4;  // 0.3, rounded as the input is
  check_exact_and_unbiased(
      of([](Tape&, In x) { return sum(tanh(x[0] - 1e4)); }, {list({1e4 + 0.3})}),
      {1.0 - std::tanh(near) * std::tanh(near)}, 1e-4);
  // The rounding of a loss of 1e9 hides a gradient of 1e-3: no bias is claimed.
  const Expectation large =
      of([](Tape&, In x) { return sum(stop_gradient(x[0]) * 1e-3 + 1e9); }, {list({0.5})});
  CHECK(large.bias_error > 1e-6);
}

TEST_CASE("options that ask for nothing are Errors") {
  const Program program = [](Tape&, In x) { return sum(x[0]); };
  for (const auto& [samples, outcomes] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 10}, {-1, 10}, {1, 10}, {10, 0}, {10, -5}}) {
    ExpectationOptions options = few(samples);
    options.max_outcomes = outcomes;
    CHECK_THROWS_AS(of(program, {list({1.0})}, options), Error);
  }
  CHECK_THROWS_WITH_AS(
      of(program, {list({1.0})}, few(0)),
      "[expectation] 0 samples and at most 100000 outcomes. Give at least 2 and 1.", Error);
  const Program fixed = [](Tape& t, In) { return constant(t, 2.0); };
  CHECK_THROWS_WITH_AS(of(fixed, {Tensor::of<std::int32_t>({1}, {1})}),
                       "[expectation] no input has floating elements: there is no gradient to "
                       "compare. Give one, or set bias to false.",
                       Error);
  ExpectationOptions none = few();
  none.bias = false;
  CHECK(of(fixed, {}, none).loss == 2.0);
}

TEST_CASE("what is not finite is not known") {
  const Expectation e = of([](Tape&, In x) { return sum(log(x[0])); }, {list({-1.0})});
  CHECK(!e.biased());
  CHECK(std::isnan(e.bias));
  CHECK(e.text().find("bias: unknown") != std::string::npos);
}

TEST_CASE("what a program throws at a moved point is another step") {
  const Program program = [](Tape&, In x) {
    if (x[0].value().at(0) > 0.301) throw std::domain_error("outside");
    return sum(square(x[0]));
  };
  const Expectation e = of(program, {list({0.3})});
  CHECK(e.exact);
  CHECK(!e.biased());
  CHECK(e.true_gradient[0].at(0) == doctest::Approx(0.6));
}
