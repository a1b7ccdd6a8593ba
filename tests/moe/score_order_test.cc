// Orders of scores that round to equal numbers, and what routers select by them.

#include "moe/score_order.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "moe/sampling.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"

using namespace moegrad;
using moegrad::test::ids_of;
using moegrad::test::router_of;
using moegrad::test::square_size;

namespace {

using Ids = std::vector<std::int32_t>;

Tensor row(const std::vector<double>& values) {
  return Tensor::of<double>({1, static_cast<std::int64_t>(values.size())}, values);
}

// Scores in the type of the logits.
Tensor scores_of(Score score, const Tensor& logits) {
  Tape tape;
  const Var o = tape.constant(logits);
  if (score == Score::root_softplus) return sqrt(softplus(o)).value();
  return (score == Score::softmax ? softmax(o) : sigmoid(o)).value();
}

Ids best(Score score, const std::vector<double>& logits, std::vector<double> bias, std::int64_t k,
         std::int64_t groups = 1, std::int64_t kept = 1) {
  bias.resize(logits.size(), 0.0);
  const Tensor b = row(bias).reshape({static_cast<std::int64_t>(bias.size())});
  return ids_of(top_biased(score, scores_of(score, row(logits)), row(logits), b, k, groups, kept));
}

// What a router selects at inference for these logits, in both types.
Ids selects(const std::string& name, const Tensor& logits, std::int64_t k, DType dtype,
            const std::map<std::string, std::string>& options = {}) {
  const std::int64_t experts = logits.size(1);
  Tape tape;
  Weights weights;
  weights.set("router.weight", tape.constant(test::identity(experts).to(dtype)));
  weights.set("router.balance", tape.constant(Tensor::zeros({experts}, dtype, Device::cpu)));
  return ids_of(
      router_of(name, options)
          ->route(square_size(experts, k), {tape.constant(logits.to(dtype)), weights, false})
          .selected);
}

}  // namespace

TEST_CASE("sigmoid + bias: beyond the rounding of the sum the logits decide") {
  CHECK(best(Score::sigmoid, {17.5, 18.5, 19.5}, {}, 1) == Ids{2});
  CHECK(best(Score::sigmoid, {40, 42, 41}, {}, 3) == Ids{1, 2, 0});
  CHECK(best(Score::sigmoid, {40, 42, 41}, {0.3, 0.3, 0.3}, 3) == Ids{1, 2, 0});
  CHECK(best(Score::sigmoid, {800, 900, 850}, {}, 2) == Ids{1, 2});
  CHECK(best(Score::sigmoid, {-800, -900, -850}, {}, 2) == Ids{0, 2});
  CHECK(best(Score::sigmoid, {-60, -59}, {}, 1) == Ids{1});
  CHECK(best(Score::sigmoid, {-60, -59}, {1e-20, 0}, 1) == Ids{0});
  CHECK(best(Score::sigmoid, {40, 50}, {1e-3, 0}, 1) == Ids{0});
  CHECK(best(Score::sigmoid, {1, 1, 1}, {}, 2) == Ids{0, 1});
}

TEST_CASE("groups by the sum of their two largest, beyond its rounding too") {
  CHECK(best(Score::sigmoid, {40, 41, 42, 30}, {}, 1, 2, 1) == Ids{1});
  CHECK(best(Score::sigmoid, {0, 3, 1, 1}, {}, 2, 2, 1) == Ids{2, 3});
  CHECK(best(Score::sigmoid, {0, 3, 1, 1}, {0, 0.5, 0, 0}, 2, 2, 1) == Ids{1, 0});
  CHECK(best(Score::sigmoid, {0, 3, 1, 1}, {}, 2, 4, 2) == Ids{1, 2});
}

TEST_CASE("softmax + bias: what underflows beside the largest is still in order") {
  CHECK(best(Score::softmax, {800, 0, 50}, {}, 3) == Ids{0, 2, 1});
  CHECK(best(Score::softmax, {800, 0, 50}, {0, 1e-30, 0}, 2) == Ids{0, 1});
}

TEST_CASE("sqrt(softplus) + bias: what underflows is still in order, and nothing saturates") {
  CHECK(best(Score::root_softplus, {17.5, 18.5, 19.5}, {}, 1) == Ids{2});
  CHECK(best(Score::root_softplus, {800, 900, 850}, {}, 3) == Ids{1, 2, 0});
  CHECK(best(Score::root_softplus, {-800, -900, -850}, {}, 3) == Ids{0, 2, 1});
  CHECK(best(Score::root_softplus, {-1800, -1900, -1850}, {}, 3) == Ids{0, 2, 1});
  CHECK(best(Score::root_softplus, {-60, -59}, {1e-12, 0}, 1) == Ids{0});
  CHECK(best(Score::root_softplus, {9, 4}, {0, 0.98}, 1) == Ids{0});  // 3.00002 and 2.004 + 0.98
  CHECK(best(Score::root_softplus, {9, 4}, {0, 1.0}, 1) == Ids{1});
}

TEST_CASE("where nothing is rounded away the order is that of the sums") {
  const Tensor o = Rng{6, 0, 0}.normal({200, 7}, DType::f64);
  const Tensor b = Rng{6, 1, 0}.normal({7}, DType::f64, 0.0, 0.3);
  for (const Score score : {Score::sigmoid, Score::softmax, Score::root_softplus}) {
    const Tensor got = top_biased(score, scores_of(score, o), o, b, 3);
    for (std::int64_t t = 0; t < 200; ++t) {
      const std::vector<double> g = test::softmax_row(o, t);
      std::vector<std::pair<double, std::int32_t>> sums;
      for (std::int64_t e = 0; e < 7; ++e) {
        const double power = std::exp(o.at(t * 7 + e));
        const double s = score == Score::softmax   ? g[static_cast<std::size_t>(e)]
                         : score == Score::sigmoid ? power / (1.0 + power)
                                                   : std::sqrt(std::log1p(power));
        sums.emplace_back(-(s + b.at(e)), static_cast<std::int32_t>(e));
      }
      std::sort(sums.begin(), sums.end());
      for (std::int64_t j = 0; j < 3; ++j) {
        CHECK(got.data<std::int32_t>()[t * 3 + j] == sums[static_cast<std::size_t>(j)].second);
      }
    }
  }
}

TEST_CASE("a NaN is never selected before a number, and stops nothing") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(best(Score::sigmoid, {1, 3, 2}, {}, 3) == Ids{1, 2, 0});
  const Ids some = best(Score::sigmoid, {1, nan, 2}, {}, 3);
  CHECK(Ids(some.begin(), some.end()).size() == 3);
  CHECK(best(Score::softmax, {nan, nan}, {}, 2) == Ids{0, 1});
}

TEST_CASE("log odds: log g - log(1 - g), in order where g rounds to 0 or 1") {
  const Tensor o = Rng{7, 0, 0}.normal({50, 5}, DType::f64);
  const Tensor odds = log_odds(o);
  for (std::int64_t t = 0; t < 50; ++t) {
    const std::vector<double> g = test::softmax_row(o, t);
    for (std::int64_t e = 0; e < 5; ++e) {
      const double p = g[static_cast<std::size_t>(e)];
      CHECK(odds.at(t * 5 + e) == doctest::Approx(std::log(p / (1.0 - p))).epsilon(1e-9));
    }
  }
  CHECK(log_odds(row({50, 0})).to_vector() == std::vector<double>{50, -50});
  CHECK(log_odds(row({1e4, 0, 0})).at(0) == doctest::Approx(1e4 - std::log(2.0)).epsilon(1e-15));
  CHECK(log_odds(row({3})).at(0) == std::numeric_limits<double>::infinity());
}

TEST_CASE("routers rank by what does not saturate, in f32 and f64") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CHECK(selects("deepseek-v3", row({17.5, 18.5, 19.5}), 1, dtype) == Ids{2});
    CHECK(selects("deepseek-v3", row({117.5, 118.5, 119.5}), 2, dtype) == Ids{2, 1});
    CHECK(selects("loss-free", row({900, 0, 50}), 2, dtype) == Ids{0, 2});
    // One place in expert 0: for the token with the larger g, though both are 1 when rounded.
    const Tensor two = Tensor::of<double>({2, 2}, {50, 0, 60, 0});
    CHECK(selects("expert-choice", two, 1, dtype) == Ids{-1, 1, 0, -1});
    CHECK(selects("v-moe", two, 1, dtype,
                  {{"batch-priority", "true"}, {"capacity", "1"}, {"capacity-multiple", "1"}}) ==
          Ids{-1, 0});
  }
}

// 20000 tokens of four equal logits: each 5000 times within five deviations, at 1e7 as at 0. Added
// to 1e7 in f32 the noise is rounded to whole numbers.
TEST_CASE("noise is added to logits less their largest") {
  constexpr std::int64_t kSamples = 20000;
  for (const char* name : {"moesart", "unordered-set", "horvitz-thompson", "priority",
                           "categorical", "sparsemixer", "gumbel-top-k-st"}) {
    for (const double height : {0.0, 1e7}) {
      CAPTURE(name);
      CAPTURE(height);
      const std::int64_t k = router_entry(name).most_active == 1 ? 1 : 2;
      Tape tape({.rng = Rng{12, 0, 0}});
      Weights weights;
      weights.set("router.weight", tape.constant(test::identity(4).to(DType::f32)));
      weights.set("router.omega", tape.constant(Tensor::full({4}, 1.0, DType::f32, Device::cpu)));
      const Var x = tape.constant(Tensor::full({kSamples, 4}, height, DType::f32, Device::cpu));
      const Routing r = router_of(name)->route(square_size(4, k), {x, weights});
      std::vector<double> first(4, 0.0);
      for (std::int64_t t = 0; t < kSamples; ++t) {
        first[static_cast<std::size_t>(r.selected.data<std::int32_t>()[t * k])] += 1.0;
      }
      for (const double count : first) CHECK(std::abs(count - 5000.0) < 307.0);
    }
  }
}

// What all logits of a row have in common changes nothing, in f32 at 1e7 neither: not the choice,
// the weights, the scores, nor the losses and their gradients.
TEST_CASE("normal noise and jitter are added to logits less their largest") {
  constexpr std::int64_t kTokens = 20000;
  const auto run = [](const std::string& name, double height) {
    Tape tape({.rng = Rng{12, 0, 0}});
    Weights weights;
    weights.set("router.weight", tape.variable(test::identity(4).to(DType::f32)));
    weights.set("router.noise", tape.variable(Tensor::zeros({4, 4}, DType::f32, Device::cpu)));
    const Var x = tape.variable(Tensor::full({kTokens, 4}, height, DType::f32, Device::cpu));
    const std::int64_t k = router_entry(name).most_active == 1 ? 1 : 2;
    const Routing r = router_of(name)->route(square_size(4, k), {x, weights});
    std::vector<Tensor> all = {r.selected, r.weights.value(), r.scores.value(),
                               r.auxiliary.value()};
    all.push_back(tape.backward(r.auxiliary + sum(square(r.weights)))[x]);
    return all;
  };
  const auto expect_even = [](const Tensor& selected) {
    std::vector<double> first(4, 0.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::int32_t e = selected.data<std::int32_t>()[t * selected.size(1)];
      if (e >= 0) first[static_cast<std::size_t>(e)] += 1.0;
    }
    for (const double count : first) CHECK(std::abs(count - 5000.0) < 307.0);
  };
  for (const std::string name : {"noisy-top-k", "v-moe"}) {
    CAPTURE(name);
    const std::vector<Tensor> low = run(name, 0.0);
    const std::vector<Tensor> high = run(name, 1e7);
    for (std::size_t i = 0; i < low.size(); ++i) CHECK(low[i].same_bits(high[i]));
    expect_even(low[0]);
  }
  // Behind one logit of 1e7 the others keep their noise, and without noise their order.
  for (const std::string name : {"noisy-top-k", "v-moe"}) {
    CAPTURE(name);
    const auto selected = [&](const Tensor& o, bool training) {
      Tape tape({.rng = Rng{13, 0, 0}});
      Weights weights;
      weights.set("router.weight", tape.constant(test::identity(4).to(DType::f32)));
      weights.set("router.noise", tape.constant(Tensor::zeros({4, 4}, DType::f32, Device::cpu)));
      return router_of(name, {{name == "v-moe" ? "capacity" : "load", "4"}})
          ->route(square_size(4, 2), {tape.constant(o), weights, training})
          .selected;
    };
    const Tensor o = Tensor::zeros({15000, 4}, DType::f32, Device::cpu);
    for (std::int64_t t = 0; t < 15000; ++t) o.write<float>()[4 * t] = 1e7F;
    std::vector<double> second(4, 0.0);
    const Tensor ids = selected(o, true);
    for (std::int64_t t = 0; t < 15000; ++t) {
      second[static_cast<std::size_t>(ids.data<std::int32_t>()[2 * t + 1])] += 1.0;
    }
    CHECK(second[0] == 0.0);
    for (std::size_t e = 1; e < 4; ++e) CHECK(std::abs(second[e] - 5000.0) < 289.0);
    CHECK(ids_of(selected(row({1e7, 0.1, 0.3, 0.2}).to(DType::f32), false)) == Ids{0, 2});
  }
  // Jitter is a part of the features: of 1e7 as of 1.
  for (const double height : {1.0, 1e7}) expect_even(run("switch", height)[0]);
}
