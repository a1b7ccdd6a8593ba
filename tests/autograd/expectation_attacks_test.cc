// Programs that try to be called biased, or unbiased, where it was not seen: rare events, few
// samples, heavy tails, tiny and large scales, state that begins to act late.
#include <cmath>

#include <doctest/doctest.h>

#include "tests/autograd/expectation_programs.h"

using namespace moegrad;
using namespace moegrad::expectation_test;

namespace {

Var normal(Tape& t) { return t.constant(t.rng().normal({1}, DType::f64)); }
// 1 where y > 0.
Var up(Tape& t, Var y) {
  const Var zero = t.constant(Tensor::zeros(y.shape(), DType::f64, Device::cpu));
  const Var one = t.constant(Tensor::full(y.shape(), 1.0, DType::f64, Device::cpu));
  return where(greater(y, zero), one, zero);
}
// The value `cost`, the gradient cost * d log_p.
Var score(Var cost, Var log_p) {
  return cost + stop_gradient(cost) * (log_p - stop_gradient(log_p));
}
// How many of some seeds are called biased.
int biased_of(int seeds, const Program& program, double x, std::int64_t samples) {
  int biased = 0;
  for (int seed = 0; seed < seeds; ++seed) {
    ExpectationOptions options = few(samples);
    options.rng.seed = static_cast<std::uint64_t>(seed) * 1'000'003;
    biased += of(program, {list({x})}, options).biased() ? 1 : 0;
  }
  return biased;
}

}  // namespace

TEST_CASE("rare events compared by hand, with the right gradient, are not biased") {
  // [u < sigmoid(x)]: straight-through and the score function are unbiased.
  const Program through = [](Tape& t, In x) {
    const Var p = sigmoid(x[0]);
    return sum(straight_through(threshold(t, p), p));
  };
  const Program by_score = [](Tape& t, In x) {
    const Var p = sigmoid(x[0]);
    const Var z = threshold(t, p);
    return score(sum(z), sum(z * log(p) + (1.0 - z) * log(1.0 - p)));
  };
  // The input is the probability itself: E = max(0, x) has a kink nearby.
  const Program itself = [](Tape& t, In x) {
    return sum(straight_through(threshold(t, x[0]), x[0]));
  };
  // Beside a fair coin by hand, whose spread says nothing of the event.
  const Program beside = [&](Tape& t, In x) { return through(t, x) + sum(up(t, normal(t))); };
  for (const std::int64_t samples : {10, 100, 1000}) {
    CAPTURE(samples);
    for (const double x : {-9.2, -5.0, -3.0, 0.4, 7.0}) {
      CAPTURE(x);
      CHECK(biased_of(4, through, x, samples) == 0);
      CHECK(biased_of(4, by_score, x, samples) == 0);
      CHECK(biased_of(4, beside, x, samples) == 0);
    }
    for (const double x : {1e-4, 1e-3, 1e-2, 0.1, 0.9}) {
      CAPTURE(x);
      CHECK(biased_of(4, itself, x, samples) == 0);
    }
  }
  const Expectation none = of(through, {list({-9.2})}, few(200));
  CHECK(std::isinf(none.bias_error));
  CHECK(none.text().find("bias: unknown; input 0, element 0: all samples gave the same loss: no "
                         "sample showed an event") != std::string::npos);
}

TEST_CASE("discontinuous losses at tiny, common and large scales") {
  for (const double scale : {1e-6, 1e-3, 1.0, 1e6}) {
    CAPTURE(scale);
    for (const double height : {1e-9, 1.0, 1e9}) {
      CAPTURE(height);
      // E = height Phi(x / scale)
      const auto step = [scale, height](double factor) -> Program {
        return [=](Tape& t, In x) {
          const Var y = x[0] + scale * normal(t);
          const Var z = stop_gradient(y);
          const Var log_p = sum(square(z - x[0])) * (-0.5 * factor / (scale * scale));
          return score(height * sum(up(t, z)), log_p);
        };
      };
      CHECK(biased_of(4, step(1.0), 0.3 * scale, 30) == 0);
      CHECK(biased_of(4, step(1.0), 0.3 * scale, 500) == 0);
      CHECK(biased_of(2, step(-1.0), 0.3 * scale, 4000) == 2);
    }
  }
}

TEST_CASE("heavy tails, an exponential, a baseline: unbiased by few samples and by many") {
  // t with two degrees of freedom, in sin: the pathwise gradient is exact.
  const Program tails = [](Tape& t, In x) {
    const Var u = t.constant(t.rng().uniform({1}, DType::f64));
    return sum(sin(x[0] * normal(t) / sqrt(-1.0 * log(u))));
  };
  // -log(u) / x: E = 1 / x
  const Program exponential = [](Tape& t, In x) {
    return sum(-1.0 * log(t.constant(t.rng().uniform({1}, DType::f64))) / x[0]);
  };
  // (f(z) - f(z')) d log p(z): the other sample is the baseline
  const Program baseline = [](Tape& t, In x) {
    const Var a = stop_gradient(x[0] + normal(t));
    const Var b = stop_gradient(x[0] + normal(t));
    const Var log_p = sum(square(a - x[0])) * -0.5;
    const Var gain = sum(square(a)) - sum(square(b));
    return sum(square(a)) + stop_gradient(gain) * (log_p - stop_gradient(log_p));
  };
  // Kinks everywhere: |x + z|
  const Program kinks = [](Tape& t, In x) { return sum(abs(x[0] + normal(t))); };
  for (const std::int64_t samples : {10, 30, 100, 1000}) {
    CAPTURE(samples);
    for (const Program& program : {tails, exponential, baseline, kinks}) {
      CHECK(biased_of(4, program, 0.7, samples) == 0);
    }
  }
}

TEST_CASE("wrong gradients are still found") {
  // relu(y) + 2 [y > 0] with half of the jump's part, for uniform noise: bias 1.
  const Program half = [](Tape& t, In x) {
    const Var y = x[0] + t.constant(t.rng().uniform({1}, DType::f64)) - 0.5;
    return sum(relu(y) + 2.0 * up(t, y) + (x[0] - stop_gradient(x[0])));
  };
  const Expectation e = of(half, {list({0.1})}, few(8000));
  CHECK(e.biased());
  CHECK(std::abs(e.bias - 1.0) <= e.bias_error);
  CHECK(e.text().find("biased at input 0, element 0: mean gradient") != std::string::npos);
  // The exponential with a factor 1.1.
  const Program more = [](Tape& t, In x) {
    const Var y = sum(-1.0 * log(t.constant(t.rng().uniform({1}, DType::f64))) / x[0]);
    return y + 0.1 * (y - stop_gradient(y));
  };
  CHECK(of(more, {list({0.7})}, few(8000)).biased());
}

TEST_CASE("draws whose outcomes no sample showed") {
  // 20 coins of probability 1e-6 that cost 1e6: straight-through is unbiased for a linear loss.
  const Program coins = [](Tape& t, In x) {
    const Var p = sigmoid(x[0]);
    const Var z = t.constant(t.decisions().bernoulli("z", p.value(), t.rng()).to(DType::f64));
    return 1e6 * sum(straight_through(z, p));
  };
  const Expectation e = of(coins, {Tensor::full({20}, -13.8, DType::f64, Device::cpu)}, few(100));
  CHECK(!e.exact);
  CHECK(!e.biased());
  CHECK(std::isinf(e.bias_error));
  CHECK(e.text().find("input 0, element 0: all sampled outcomes become less probable") !=
        std::string::npos);
  CHECK(e.text().find("(and 19 more of 20 elements)") != std::string::npos);

  ExpectationOptions two = few(2);
  const Expectation few_samples =
      of([](Tape& t, In x) { return sum(x[0] * normal(t)); }, {list({0.5})}, two);
  CHECK(!few_samples.biased());
  CHECK(few_samples.unknown == "input 0, element 0: two samples tell no error");
}

TEST_CASE("state that begins to act late is not called a bias") {
  for (const int first : {20, 40, 3000}) {
    CAPTURE(first);
    int calls = 0;
    const Program counts = [&](Tape&, In x) {
      return sum(x[0]) * (++calls > first ? 1.0 + 0.01 * calls : 1.0);
    };
    const Expectation e = of(counts, {list({2.0, 3.0})});
    CHECK(!e.biased());
    if (calls <= first) continue;
    CHECK(e.unknown ==
          "run again at the same point, the program gave another loss or gradient; does it depend "
          "on hidden state?");
    CHECK(std::isnan(e.bias));
    CHECK(std::isnan(e.true_gradient[0].at(0)));
    CHECK(e.text().find("bias: unknown; run again") != std::string::npos);
  }
  int calls = 0;
  const Expectation sampled =
      of([&](Tape& t, In x) { return sum(x[0] * normal(t)) * (++calls > 500 ? 2.0 : 1.0); },
         {list({2.0})}, few(200));
  CHECK(calls > 500);
  CHECK(!sampled.biased());
  CHECK(sampled.unknown.find("hidden state") != std::string::npos);
}

TEST_CASE("what is not one number of f64 is no loss") {
  CHECK_THROWS_WITH_AS(
      of([](Tape&, In x) { return x[0]; }, {list({1.0, 2.0})}),
      "[expectation] the program gives a loss of shape [2]. Give one number: a sum or a mean.",
      Error);
  CHECK_THROWS_WITH_AS(
      of([](Tape& t, In) { return t.constant(Tensor::of<std::int32_t>({1}, {3})); }, {list({1.0})}),
      "[expectation] the program gives a loss of i32. Moments need f64.", Error);
  CHECK_THROWS_WITH_AS(
      of([](Tape& t, In) { return t.constant(Tensor::zeros({1}, DType::f32, Device::cpu)); },
         {list({1.0})}),
      "[expectation] the program gives a loss of f32. Moments need f64.", Error);
}

TEST_CASE("what is unknown is named, with its reason, and hides no other bias") {
  // At the kink of element 1 nothing is known; element 2 has a bias of 1.
  const Expectation e = of(
      [](Tape&, In x) {
        const Var y = sum(relu(take_columns(x[0], Tensor::of<std::int32_t>({1, 1}, {1}))));
        const Var z = sum(take_columns(x[0], Tensor::of<std::int32_t>({1, 1}, {2})));
        return y + 2.0 * z - stop_gradient(z);
      },
      {row({1.0, 0.0, 3.0})});
  CHECK(e.unknown ==
        "input 0, element 1: every step leaves the domain or the cell, or is not finite");
  CHECK(e.biased());
  CHECK(e.differing.find("input 0, element 2: mean gradient 2, true 1") != std::string::npos);
  const Expectation second =
      of([](Tape&, In x) { return sum(x[0]) + sum(relu(x[1])); }, {list({1.0}), list({2.0, 0.0})});
  CHECK(second.unknown.find("input 1, element 1: ") == 0);
  const Expectation nan =
      of([](Tape&, In x) { return sum(x[0]) + sum(log(x[1])); }, {list({1.0}), list({-1.0})});
  CHECK(nan.unknown.find("(and 1 more of 2 elements)") != std::string::npos);
}
