// Programs of noise, or of too many outcomes, whose expectation and bias are known in closed form.
#include <cmath>
#include <stdexcept>

#include <doctest/doctest.h>

#include "tests/autograd/expectation_programs.h"

using namespace moegrad;
using namespace moegrad::expectation_test;

TEST_CASE("a Bernoulli number by comparison with a uniform one is no enumerated draw") {
  // L = 3 z + 1 for z = [u < sigmoid(x)]: E[L] = 3 sigmoid(x) + 1. The program's gradient is 0.
  const Expectation e =
      of([](Tape& t, In x) { return sum(3.0 * threshold(t, sigmoid(x[0])) + 1.0); }, {list({0.4})},
         few(20000));
  const double p = sigmoid_of(0.4);
  CHECK(!e.exact);
  CHECK(e.noise);
  CHECK(std::abs(e.loss - (3.0 * p + 1.0)) < 2.0 * e.loss_confidence);
  CHECK(e.gradient[0].at(0) == 0.0);
  check_reference(e, {3.0 * p * (1.0 - p)}, 0.35);
  CHECK(e.biased());
  CHECK(e.text().find("Monte Carlo, 20000 samples: random numbers outside") != std::string::npos);

  SUBCASE("straight-through is unbiased for a linear loss, as the textbook says") {
    const Expectation st = of(
        [](Tape& t, In x) {
          const Var q = sigmoid(x[0]);
          return sum(3.0 * straight_through(threshold(t, q), q));
        },
        {list({0.4})}, few(20000));
    CHECK(!st.exact);
    CHECK(!st.biased());
    CHECK(st.largest_z < 4.0);
  }
  SUBCASE("and biased for a quadratic one") {
    // E[(z - 0.1)^2]' = (0.81 - 0.01) p', straight-through: 2 (p - 0.1) p' in the mean
    const Expectation st = of(
        [](Tape& t, In x) {
          const Var q = sigmoid(x[0]);
          return sum(square(straight_through(threshold(t, q), q) + 1.0));
        },
        {list({0.4})}, few(20000));
    // E[(z + 1)^2]' = 3 p'; the estimate: 2 (p + 1) p'
    const double slope = p * (1.0 - p);
    check_reference(st, {3.0 * slope}, 0.35);
    CHECK(std::abs(st.gradient[0].at(0) - 2.0 * (p + 1.0) * slope) < 0.02);
  }
}

TEST_CASE("Gumbel-max written by hand is noise, and its expectation that of the softmax") {
  const Tensor logits = row({0.3, -0.5, 0.9});
  const std::vector<double> costs = {1.0, -2.0, 0.5};
  const Expectation e = of(
      [](Tape& t, In x) {
        const Var noisy = x[0] + t.constant(t.rng().gumbel({1, 3}, DType::f64, Device::cpu));
        return sum(take_columns(t.constant(row({1.0, -2.0, 0.5})), top_k_indices(noisy, 1)));
      },
      {logits}, few(8000));
  CHECK(!e.exact);
  CHECK(e.noise);
  CHECK(e.outcomes == 8000);
  double total = 0.0;
  for (int i = 0; i < 3; ++i) total += std::exp(logits.at(i));
  double mean = 0.0;
  for (int i = 0; i < 3; ++i)
    mean += std::exp(logits.at(i)) / total * costs[static_cast<std::size_t>(i)];
  std::vector<double> truth;
  for (int i = 0; i < 3; ++i) {
    truth.push_back(std::exp(logits.at(i)) / total * (costs[static_cast<std::size_t>(i)] - mean));
  }
  CHECK(std::abs(e.loss - mean) < 2.0 * e.loss_confidence);
  check_reference(e, truth, 0.4);
}

TEST_CASE("numbers that do not move the tape's generator are noticed too") {
  const Expectation split =
      of([](Tape& t,
            In x) { return sum(x[0] * t.constant(t.rng().split(7).normal({1}, DType::f64))); },
         {list({2.0})});
  CHECK(!split.exact);
  CHECK(split.noise);
  const Expectation peeked =
      of([](Tape& t, In x) { return sum(x[0] * t.rng().uniform(0)); }, {list({2.0})});
  CHECK(!peeked.exact);
  const Expectation put_back = of(
      [](Tape& t, In x) {
        const Rng start = t.rng();
        const Var y = sum(x[0] * t.constant(t.rng().normal({1}, DType::f64)));
        t.rng() = start;
        return y;
      },
      {list({2.0})});
  CHECK(!put_back.exact);
  // A rare event of a number that is looked at and not taken.
  const Expectation rare = of(
      [](Tape& t, In x) {
        const Rng copy = t.rng();
        return sum(x[0]) * (copy.uniform(0) < 2e-3 ? 500.0 : 1.0);
      },
      {list({2.0})});
  CHECK(!rare.exact);
  // A generator of the program's own is no random number: the program is a fixed one.
  const Expectation own = of(
      [](Tape& t, In x) {
        Rng mine{5, 0, 0};
        return sum(x[0] * t.constant(mine.normal({1}, DType::f64)));
      },
      {list({2.0})});
  CHECK(own.exact);
  CHECK(!own.biased());
}

TEST_CASE("noise in the gradient alone is noise") {
  const Expectation e = of(
      [](Tape& t, In x) {
        const Var u = t.constant(t.rng().split(3).normal({1}, DType::f64));
        return sum(x[0] + u * (x[0] - stop_gradient(x[0])));
      },
      {list({2.0})});
  CHECK(!e.exact);
  CHECK(e.loss == doctest::Approx(2.0));
  CHECK(!e.biased());
  CHECK(e.largest_z < 4.0);
}

TEST_CASE("hidden state is an Error") {
  int calls = 0;
  CHECK_THROWS_WITH_AS(
      of([&](Tape&, In x) { return sum(x[0] * (1.0 + 0.1 * ++calls)); }, {list({2.0})}),
      "[expectation] the program gave another loss or gradient when it was run again with the same "
      "inputs, decisions and random numbers. Draw from the tape's rng() alone.",
      Error);
}

TEST_CASE("Monte Carlo of an exact pathwise gradient finds no bias") {
  // E[exp(x u)] = exp(x^2 / 2) for normal u; the pathwise gradient is exact.
  const Program program = [](Tape& t, In x) {
    return sum(exp(x[0] * t.constant(t.rng().normal({1}, DType::f64))));
  };
  const Expectation e = of(program, {list({0.7})}, few(4000));
  CHECK(!e.exact);
  CHECK(!e.biased());
  CHECK(e.largest_z < 4.0);
  CHECK(std::abs(e.true_gradient[0].at(0) - 0.7 * std::exp(0.245)) <
        4.0 * std::sqrt(e.variance[0].at(0) / 4000.0));
  CHECK(e.bias_error < 0.01);

  SUBCASE("and that of one that is 5 % too large") {
    const Expectation wrong = of(
        [&](Tape& t, In x) {
          const Var y = program(t, x);
          return y + 0.05 * (y - stop_gradient(y));
        },
        {list({0.7})}, few(4000));
    CHECK(wrong.biased());
    CHECK(wrong.largest_z > 4.0);
    CHECK(std::abs(wrong.bias - 0.05 * std::abs(e.gradient[0].at(0))) <= wrong.bias_error);
  }
  SUBCASE("where all wide differences see a plateau") {
    const Expectation narrow = of(
        [](Tape& t, In x) {
          return sum(t.constant(t.rng().normal({1}, DType::f64)) + square(tanh(200.0 * x[0])));
        },
        {list({1e-3})});
    const double slope = 1.0 - std::tanh(0.2) * std::tanh(0.2);
    check_reference(narrow, {400.0 * std::tanh(0.2) * slope}, 1.0);
    CHECK(!narrow.biased());
  }
  SUBCASE("at a scale of 1e-4") {
    const Expectation sharp = of(
        [](Tape& t, In x) {
          return sum(tanh((x[0] + 1e-4 * t.constant(t.rng().normal({1}, DType::f64))) * 1e4));
        },
        {list({3e-5})}, few(2000));
    CHECK(!sharp.biased());
    CHECK(sharp.bias_error < 0.05 * sharp.true_norm);
  }
}

TEST_CASE("kinks at random places are smooth on average, and noise with a jump is not missed") {
  // E relu(x + u) for uniform u in (0, 1) - 0.5 at x = 0.1: (x + 0.5)^2 / 2, gradient 0.6.
  const auto uniform = [](Tape& t) { return t.constant(t.rng().uniform({1}, DType::f64)) - 0.5; };
  const Expectation kink =
      of([&](Tape& t, In x) { return sum(relu(x[0] + uniform(t))); }, {list({0.1})}, few(4000));
  CHECK(!kink.biased());
  CHECK(std::abs(kink.true_gradient[0].at(0) - 0.6) < 0.04);

  // relu + a step of height 2 at the same place: the pathwise gradient misses 2 of 2.6.
  const Expectation jump = of(
      [&](Tape& t, In x) {
        const Var y = x[0] + uniform(t);
        const Tensor up = greater(y, t.constant(Tensor::zeros({1}, DType::f64, Device::cpu)));
        return sum(relu(y) + where(up, constant(t, 2.0), constant(t, 0.0)));
      },
      {list({0.1})}, few(20000));
  CHECK(jump.biased());
  CHECK(std::abs(jump.bias - 2.0) <= jump.bias_error);
  CHECK(jump.bias_error < 0.5);
}

TEST_CASE("a kink that all samples have is not averaged over, 1e-4 away") {
  const Expectation e =
      of([](Tape& t,
            In x) { return sum(relu(x[0] - 1e-4) * t.constant(t.rng().uniform({1}, DType::f64))); },
         {list({0.0})});
  CHECK(!e.exact);
  CHECK(e.true_norm < 1e-9);
  CHECK(!e.biased());

  SUBCASE("nor one that no operation reports") {
    const Expectation hidden = of(
        [](Tape& t, In x) {
          const Var u = t.constant(t.rng().uniform({1}, DType::f64, 0.5, 1.5));
          return x[0].value().at(0) > 1e-4 ? sum(x[0] * u) : sum(1e-4 * u);
        },
        {list({0.0})});
    CHECK(hidden.true_norm < 1e-6);
    CHECK(!hidden.biased());
  }
}

TEST_CASE("a draw at temperature 1e-4 by Monte Carlo: its paths are weighted") {
  ExpectationOptions options = few(2000);
  options.max_outcomes = 2;
  const Expectation e = of(
      [](Tape& t, In x) {
        const Var p = softmax(x[0] / 1e-4);
        const Tensor i = t.decisions().categorical("draw", p.value(), t.rng()).reshape({1, 1});
        const Var cost = take_columns(t.constant(row({1.0, -2.0, 0.5})), i);
        const Var log_p = log(take_columns(p, i));
        return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
      },
      {row({1e-4, 0.0, 0.5e-4})}, options);
  CHECK(!e.exact);
  CHECK(!e.biased());
  CHECK(e.bias_error < 1e-3 * e.true_norm);
}

TEST_CASE("more programs of noise: how they are judged") {
  const auto normal = [](Tape& t) { return t.constant(t.rng().normal({1}, DType::f64)); };
  SUBCASE("(mu + s u)^2, pathwise: 2 mu") {
    const Expectation e =
        of([&](Tape& t, In x) { return sum(square(x[0] + 1.7 * normal(t))); }, {list({0.6})});
    check_reference(e, {1.2}, 0.1);
    CHECK(!e.biased());
  }
  SUBCASE("the same by the score function, and with its 1/s^2 forgotten") {
    const auto score = [&](double factor) {
      return of(
          [&normal, factor](Tape& t, In x) {
            const Var z = stop_gradient(x[0] + 1.7 * normal(t));
            const Var cost = sum(square(z));
            const Var log_p = sum(square(z - x[0])) * (-0.5 / factor);
            return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
          },
          {list({0.6})}, few(20000));
    };
    const Expectation right = score(1.7 * 1.7);
    check_reference(right, {1.2}, 0.5);
    CHECK(!right.biased());
    const Expectation wrong = score(1.0);
    CHECK(wrong.biased());
    CHECK(std::abs(wrong.bias - 1.2 * (1.7 * 1.7 - 1.0)) <= wrong.bias_error + 0.3);
  }
  SUBCASE("100 numbers compared: 100, of which the program's gradient has none") {
    const Expectation e = of(
        [](Tape& t, In x) {
          return sum(
              threshold(t, x[0] + t.constant(Tensor::zeros({100}, DType::f64, Device::cpu))));
        },
        {list({0.3})});
    check_reference(e, {100.0}, 5.0);
    CHECK(e.biased());
  }
  SUBCASE("a jump of 1e-3 beside a slope of 100") {
    const Expectation e =
        of([](Tape& t, In x) { return sum(1e-3 * threshold(t, x[0])) + sum(100.0 * x[0]); },
           {list({0.3})}, few(4000));
    check_reference(e, {100.001}, 1e-3);
    CHECK(e.biased());
  }
  SUBCASE("a rare event of great weight: known badly, and said so") {
    const Expectation e =
        of([](Tape& t, In x) { return 1000.0 * sum(threshold(t, 1e-3 * sigmoid(x[0]))); },
           {list({0.3})}, few(20000));
    check_reference(e, {sigmoid_of(0.3) * sigmoid_of(-0.3)}, 5.0);
    CHECK(!e.biased());
  }
  SUBCASE("a draw from noisy logits, by the score function") {
    const Expectation e = of(
        [](Tape& t, In x) {
          const Var noise = t.constant(t.rng().normal({1, 2}, DType::f64));
          const Var p = softmax(x[0] + 0.5 * noise);
          const Tensor i = t.decisions().categorical("draw", p.value(), t.rng()).reshape({1, 1});
          const Var cost = take_columns(t.constant(row({1.0, -2.0})), i);
          const Var log_p = log(take_columns(p, i));
          return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
        },
        {row({0.3, -0.2})});
    CHECK(!e.exact);
    CHECK(!e.biased());
    CHECK(e.bias_error < 0.05);
  }
}

TEST_CASE("the same seed gives the same bits") {
  const Program program = [](Tape& t, In x) { return sum(threshold(t, sigmoid(x[0]))); };
  const Expectation a = of(program, {list({0.4, 0.1})});
  const Expectation b = of(program, {list({0.4, 0.1})});
  CHECK(a.true_gradient[0].same_bits(b.true_gradient[0]));
  CHECK(a.error[0].same_bits(b.error[0]));
  ExpectationOptions options = few();
  options.rng.seed = 9999999;
  CHECK(!of(program, {list({0.4, 0.1})}, options).true_gradient[0].same_bits(a.true_gradient[0]));
}

TEST_CASE("too many outcomes: paths are weighted, not flipped") {
  // 8 draws of two: E[L] = (sum of sigmoid(x_i) - 5)^2 + sum p (1 - p)
  const Tensor x = Rng{3, 0, 0}.uniform({8}, DType::f64, -1.0, 1.0);
  const Program score = [](Tape& t, In in) {
    const Var q = sigmoid(in[0]);
    const Var z = t.constant(t.decisions().bernoulli("z", q.value(), t.rng()).to(DType::f64));
    const Var cost = square(sum(z) - 3.0);
    const Var log_p = sum(z * log(q) + (1.0 - z) * log(1.0 - q));
    return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
  };
  ExpectationOptions options = few(2000);
  options.max_outcomes = 100;
  const Expectation e = of(score, {x}, options);
  CHECK(!e.exact);
  CHECK(!e.noise);
  CHECK(e.text().find("too many outcomes to enumerate") != std::string::npos);
  double mean = -3.0;
  for (int i = 0; i < 8; ++i) mean += sigmoid_of(x.at(i));
  std::vector<double> truth;
  for (int i = 0; i < 8; ++i) {
    const double p = sigmoid_of(x.at(i));
    truth.push_back((2.0 * mean + 1.0 - 2.0 * p) * p * (1.0 - p));
  }
  // Paired with the same paths, the score function has no error left.
  check_reference(e, truth, 1e-4);
  CHECK(!e.biased());
  CHECK(e.largest_z < 4.0);

  const Expectation all = of(score, {x});
  CHECK(all.exact);
  CHECK(all.outcomes == 256);
  check_reference(all, truth, 1e-7);
  CHECK(!all.biased());
}

TEST_CASE("a rare event that is looked at in a copy of the generator is noise") {
  const Program program = [](Tape& t, In x) {
    const Rng copy = t.rng();
    return copy.uniform(0) < 1e-4 ? 2.0 * sum(x[0]) : sum(x[0]);
  };
  const Expectation e = of(program, {list({0.3})});
  CHECK(!e.exact);
  CHECK(e.noise);
}

TEST_CASE("a draw that is repeated without end is sampled") {
  for (const std::int32_t again : {0, 1}) {
    CAPTURE(again);
    const Program program = [again](Tape& t, In x) {
      const Tensor half = Tensor::full({1}, 0.5, DType::f64, Device::cpu);
      double draws = 0.0;
      do {
        draws += 1.0;
      } while (t.decisions().bernoulli("again", half, t.rng()).at(0) == again);
      return draws * sum(x[0]);
    };
    const Expectation e = of(program, {list({0.3})}, few(400));
    CHECK(!e.exact);
    CHECK(e.gradient[0].at(0) == doctest::Approx(2.0).epsilon(0.2));
  }
}

TEST_CASE("a bias of one element is not hidden by the noise of another") {
  const Program program = [](Tape& t, In x) {
    const Var event = 1e3 * sum(threshold(t, sigmoid(x[0])));
    return event + sum(31.0 * x[1] - 30.0 * stop_gradient(x[1]));
  };
  const Expectation e = of(program, {list({0.3}), list({0.7})});
  CHECK(!e.exact);
  CHECK(std::abs(e.gradient[1].at(0) - e.true_gradient[1].at(0)) > e.error[1].at(0));
  CHECK(e.biased());
}
