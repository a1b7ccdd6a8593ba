#include "autograd/expectation.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/ops.h"

using namespace moegrad;

namespace {

const Tensor kLogits = Tensor::of<double>({1, 4}, {0.3, -0.5, 0.9, 0.1});
const Tensor kCosts = Tensor::of<double>({1, 4}, {1.0, -2.0, 0.5, 3.0});

// The probabilities, and the one-hot draw as a constant [1, 4].
struct Draw {
  Var p;
  Tensor index;  // [1, 1]
};
Draw draw(Tape& tape, Var logits) {
  const Var p = softmax(logits);
  return {p, tape.decisions().categorical("draw", p.value(), tape.rng()).reshape({1, 1})};
}

// f(i) + stop(f(i)) (log p_i - stop(log p_i)): the value f(i), the gradient of reinforce.
Var reinforce(Tape& tape, Var logits, Var costs) {
  const Draw d = draw(tape, logits);
  const Var cost = take_columns(costs, d.index);
  const Var log_p = log(take_columns(d.p, d.index));
  return sum(cost + stop_gradient(cost) * (log_p - stop_gradient(log_p)));
}

// (straight-through one-hot . costs)^2
Var straight_through_loss(Tape& tape, Var logits, Var costs) {
  const Draw d = draw(tape, logits);
  const Var one = tape.constant(Tensor::full({1, 1}, 1.0, DType::f64, Device::cpu));
  const Var y = straight_through(put_columns(one, d.index, 4), d.p);
  return square(sum(y * costs));
}

std::vector<double> probabilities() {
  std::vector<double> p;
  double sum = 0.0;
  for (const double o : kLogits.to_vector()) {
    p.push_back(std::exp(o));
    sum += p.back();
  }
  for (double& v : p) v /= sum;
  return p;
}

}  // namespace

TEST_CASE("the score-function estimator is unbiased: exactly, over its 4 outcomes") {
  const Expectation e = expectation(
      [](Tape& t, std::span<const Var> x) { return reinforce(t, x[0], x[1]); }, {kLogits, kCosts});
  CHECK(e.exact);
  CHECK(e.outcomes == 4);
  CHECK(e.true_norm > 0.1);
  CHECK(e.bias < 1e-10);
  for (std::int64_t i = 0; i < 4; ++i) {
    CHECK(std::abs(e.gradient[0].at(i) - e.true_gradient[0].at(i)) < 1e-10);
  }

  SUBCASE("with the known moments") {
    const std::vector<double> p = probabilities();
    double mean = 0.0;
    for (std::size_t i = 0; i < 4; ++i) mean += p[i] * kCosts.to_vector()[i];
    double variance = 0.0;
    for (std::size_t i = 0; i < 4; ++i) {
      variance += p[i] * std::pow(kCosts.to_vector()[i] - mean, 2);
    }
    CHECK(e.loss == doctest::Approx(mean).epsilon(1e-13));
    CHECK(e.loss_variance == doctest::Approx(variance).epsilon(1e-13));
    double total = 0.0;
    for (std::size_t j = 0; j < 4; ++j) {
      // d/do_j log p_i = [i = j] - p_j; d/dcost_j = [i = j]
      double m = 0.0;
      double s = 0.0;
      for (std::size_t i = 0; i < 4; ++i) {
        const double g = kCosts.to_vector()[i] * ((i == j ? 1.0 : 0.0) - p[j]);
        m += p[i] * g;
        s += p[i] * g * g;
      }
      const auto at = static_cast<std::int64_t>(j);
      CHECK(e.gradient[0].at(at) == doctest::Approx(m).epsilon(1e-12));
      CHECK(e.variance[0].at(at) == doctest::Approx(s - m * m).epsilon(1e-12));
      CHECK(e.gradient[1].at(at) == doctest::Approx(p[j]).epsilon(1e-12));
      CHECK(e.variance[1].at(at) == doctest::Approx(p[j] * (1.0 - p[j])).epsilon(1e-12));
      total += s - m * m + p[j] * (1.0 - p[j]);
    }
    CHECK(e.total_variance == doctest::Approx(total).epsilon(1e-12));
  }
}

TEST_CASE("the straight-through estimator is biased, measurably") {
  const Expectation e = expectation(
      [](Tape& t, std::span<const Var> x) { return straight_through_loss(t, x[0], x[1]); },
      {kLogits, kCosts});
  CHECK(e.exact);
  CHECK(e.outcomes == 4);
  CHECK(e.bias > 0.05 * e.true_norm);

  SUBCASE("and unbiased for a linear loss") {
    const Expectation linear = expectation(
        [](Tape& t, std::span<const Var> x) {
          const Draw d = draw(t, x[0]);
          const Var one = t.constant(Tensor::full({1, 1}, 1.0, DType::f64, Device::cpu));
          return sum(straight_through(put_columns(one, d.index, 4), d.p) * x[1]);
        },
        {kLogits, kCosts});
    CHECK(linear.bias < 1e-10);
  }
}

TEST_CASE("a program without draws has no variance") {
  const Expectation e =
      expectation([](Tape&, std::span<const Var> x) { return sum(square(x[0])); }, {kLogits});
  CHECK(e.exact);
  CHECK(e.outcomes == 1);
  CHECK(e.loss_variance == 0.0);
  CHECK(e.total_variance == 0.0);
  CHECK(e.bias < 1e-10);
}

TEST_CASE("several tokens multiply the outcomes") {
  const Tensor logits = Rng{2, 0, 0}.uniform({3, 3}, DType::f64, -1.0, 1.0);
  const Expectation e = expectation(
      [](Tape& t, std::span<const Var> x) {
        const Var p = softmax(x[0]);
        const Tensor drawn = t.decisions().categorical("draw", p.value(), t.rng());
        const Var log_p = log(take_columns(p, drawn.reshape({3, 1})));
        const Var cost = square(sum(t.constant(drawn.to(DType::f64))));
        return cost + cost * sum(log_p - stop_gradient(log_p));
      },
      {logits});
  CHECK(e.exact);
  CHECK(e.outcomes == 27);
  CHECK(e.bias < 1e-9);
}

TEST_CASE("above the limit of outcomes it falls back to Monte Carlo, and says so") {
  ExpectationOptions options;
  options.max_outcomes = 3;
  options.samples = 4000;
  const Program program = [](Tape& t, std::span<const Var> x) { return reinforce(t, x[0], x[1]); };
  const Expectation e = expectation(program, std::vector<Tensor>{kLogits, kCosts}, options);
  CHECK(!e.exact);
  CHECK(e.outcomes == 4000);
  CHECK(e.loss_confidence > 0.0);

  const Expectation exact = expectation(program, {kLogits, kCosts});
  CHECK(std::abs(e.loss - exact.loss) < 2.0 * e.loss_confidence);
  for (std::int64_t i = 0; i < 4; ++i) {
    const double error = std::sqrt(exact.variance[0].at(i) / 4000.0);
    CHECK(std::abs(e.gradient[0].at(i) - exact.gradient[0].at(i)) < 4.0 * error);
  }
  CHECK(e.largest_z > 0.0);
  CHECK(e.largest_z < 4.0);  // unbiased

  SUBCASE("a limit of exactly the outcomes is enough") {
    options.max_outcomes = 4;
    CHECK(expectation(program, std::vector<Tensor>{kLogits, kCosts}, options).exact);
  }
  SUBCASE("a biased estimator stands out") {
    const Expectation biased = expectation(
        [](Tape& t, std::span<const Var> x) { return straight_through_loss(t, x[0], x[1]); },
        std::vector<Tensor>{kLogits, kCosts}, options);
    CHECK(!biased.exact);
    CHECK(biased.largest_z > 4.0);
  }
}

TEST_CASE("integer inputs pass through, f32 is refused") {
  const Expectation e = expectation(
      [](Tape&, std::span<const Var> x) {
        return sum(square(apply<GatherRows>({x[0], x[1]})));
      },
      {Tensor::of<double>({3}, {1, 2, 3}), Tensor::of<std::int32_t>({2}, {2, 2})});
  CHECK(e.gradient[0].to_vector() == std::vector<double>{0, 0, 12});
  CHECK(!e.gradient[1].defined());
  CHECK(e.bias < 1e-9);
  CHECK_THROWS_WITH_AS(
      expectation([](Tape&, std::span<const Var> x) { return sum(x[0]); },
                  {Tensor::zeros({2}, DType::f32, Device::cpu)}),
      "[expectation] input 0 is f32. Exact moments need f64: convert it with to().", Error);
}

TEST_CASE("differences can be left out") {
  ExpectationOptions options;
  options.bias = false;
  const Expectation e =
      expectation([](Tape& t, std::span<const Var> x) { return reinforce(t, x[0], x[1]); },
                  std::vector<Tensor>{kLogits, kCosts}, options);
  CHECK(e.true_gradient.empty());
  CHECK(e.gradient.size() == 2);
}
