// noisy-top-k against plain loops over its formula.

#include <algorithm>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tests/moe/router_cases.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

constexpr std::int64_t kTokens = 5, kExperts = 4, kActive = 2;
const LayerSize kSize = square_size(kExperts, kActive);

Weights noisy_weights(Tape& tape, const Tensor& noise) {
  Weights weights = identity_weights(tape, kExperts);
  weights.set("router.noise", tape.variable(noise));
  return weights;
}

}  // namespace

TEST_CASE("weights are the softmax over the k largest H; importance and load losses") {
  const Tensor o = Rng{4, 0, 0}.normal({kTokens, kExperts}, DType::f64);
  const Tensor wn = Rng{5, 0, 0}.normal({kExperts, kExperts}, DType::f64);
  Decisions decisions = Decisions::recorder();
  Tape tape({.rng = Rng{3, 0, 0}, .decisions = &decisions});
  const Var x = tape.variable(o);
  const Weights weights = noisy_weights(tape, wn);
  for (const bool of_importance : {true, false}) {
    const std::size_t before = decisions.recorded("noise").size();
    const Routing r = router_of("noisy-top-k", {{"importance", of_importance ? "0.7" : "0"},
                                                {"load", of_importance ? "0" : "0.6"}})
                          ->route(kSize, {x, weights, true});
    const Tensor n = decisions.recorded("noise").at(before);
    std::vector<double> importance(kExperts, 0.0);
    std::vector<double> load(kExperts, 0.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      double h[kExperts];
      double sd[kExperts];
      for (std::int64_t e = 0; e < kExperts; ++e) {
        double z = 0.0;
        for (std::int64_t d = 0; d < kExperts; ++d) {
          z += o.at(t * kExperts + d) * wn.at(d * kExperts + e);
        }
        sd[e] = std::log1p(std::exp(z)) + 0.01;
        h[e] = o.at(t * kExperts + e) + sd[e] * n.at(t * kExperts + e);
      }
      std::vector<double> sorted(h, h + kExperts);
      std::sort(sorted.rbegin(), sorted.rend());
      double total = 0.0;
      for (std::int64_t j = 0; j < kActive; ++j) total += std::exp(sorted[j]);
      for (std::int64_t j = 0; j < kActive; ++j) {
        const std::int32_t e = r.selected.data<std::int32_t>()[t * kActive + j];
        CHECK(h[e] == doctest::Approx(sorted[static_cast<std::size_t>(j)]));
        CHECK(r.weights.value().at(t * kActive + j) ==
              doctest::Approx(std::exp(h[e]) / total).epsilon(1e-12));
      }
      for (std::int64_t e = 0; e < kExperts; ++e) {
        const bool in = h[e] >= sorted[kActive - 1];
        const double threshold = in ? sorted[kActive] : sorted[kActive - 1];
        importance[static_cast<std::size_t>(e)] += in ? std::exp(h[e]) / total : 0.0;
        load[static_cast<std::size_t>(e)] += cdf((o.at(t * kExperts + e) - threshold) / sd[e]);
      }
    }
    const double expected =
        of_importance ? 0.7 * variation(importance, 1e-10) : 0.6 * variation(load, 1e-10);
    CHECK(r.auxiliary.value().item() == doctest::Approx(expected).epsilon(1e-11));
    // The thresholds carry gradient, and so does W_noise.
    const Tensor dn = tape.backward(r.auxiliary, {.retain = true})[weights.at("router.noise")];
    double size = 0.0;
    for (const double v : dn.values<double>()) size += std::abs(v);
    CHECK(size > 1e-6);
  }
}

TEST_CASE("the load is the chance of being chosen when only one's own noise is drawn again") {
  const Tensor o = Tensor::of<double>({1, 3}, {0.2, 0.0, -0.1});
  const double sd = std::log(2.0) + 0.01;
  Decisions decisions;
  decisions.give("noise", Tensor::of<double>({1, 3}, {0.3, 1.0, -0.4}));
  Tape given({.decisions = &decisions});
  Weights own = identity_weights(given, 3);
  own.set("router.noise", given.constant(Tensor::zeros({3, 3}, DType::f64, Device::cpu)));
  const Routing r = router_of("noisy-top-k", {{"importance", "0"}, {"load", "1"}})
                        ->route(square_size(3, 1), {given.constant(o), own, true});
  const double h[] = {0.2 + 0.3 * sd, 1.0 * sd, -0.1 - 0.4 * sd};
  Rng rng{8, 1, 0};
  std::vector<double> chance;
  for (int e = 0; e < 3; ++e) {
    double best = -1e9;
    for (int i = 0; i < 3; ++i) best = i == e ? best : std::max(best, h[i]);
    const Tensor draws = rng.normal({40000}, DType::f64);
    double wins = 0.0;
    for (const double n : draws.values<double>()) wins += o.at(e) + sd * n > best ? 1.0 : 0.0;
    chance.push_back(wins / 40000.0);
  }
  CHECK(r.auxiliary.value().item() == doctest::Approx(variation(chance, 0.0)).epsilon(0.03));
}

TEST_CASE("zero-initialised, with finite gradients from there; zero variance has a zero gradient") {
  Parameters parameters;
  Rng rng;
  router_of("noisy-top-k")->declare({3, 1, 1, kExperts, kActive}, "", parameters, rng);
  CHECK(parameters.size() == 2);
  for (const Parameter& p : parameters) {
    CHECK(p.value.to_vector() == std::vector<double>(3 * kExperts, 0.0));
  }
  for (const bool training : {true, false}) {
    Tape tape;
    const Var x = tape.variable(Rng{6, 0, 0}.normal({kTokens, 3}, DType::f64));
    Weights weights;
    for (const Parameter& p : parameters) weights.set(p.name, tape.parameter(p));
    const Routing r =
        router_of("noisy-top-k")->route({3, 1, 1, kExperts, kActive}, {x, weights, training});
    const Gradients g = tape.backward(r.auxiliary + sum(square(r.weights)));
    for (const Parameter& p : parameters) {
      for (const double v : g[p].to_vector()) CHECK(std::isfinite(v));
    }
  }
  // k = E: importance is equal at zero logits, its standard deviation zero.
  Tape tape;
  const Var x = tape.variable(Tensor::zeros({kTokens, kExperts}, DType::f64, Device::cpu));
  const Routing even =
      router_of("noisy-top-k")
          ->route(square_size(kExperts, kExperts), {x, identity_weights(tape, kExperts), false});
  CHECK(even.auxiliary.value().item() == 0.0);
  CHECK(tape.backward(even.auxiliary)[x].to_vector() ==
        std::vector<double>(kTokens * kExperts, 0.0));
}

TEST_CASE("inference: no noise, the k largest logits; an exact zero is a logit like any other") {
  const Tensor o = Tensor::of<double>({2, 4}, {0.0, -1.0, 0.5, -2.0, -3.0, 0.0, 0.0, -1.0});
  Decisions decisions = Decisions::recorder();
  Tape tape({.decisions = &decisions});
  const Routing r =
      router_of("noisy-top-k")->route(kSize, {tape.constant(o), identity_weights(tape, 4), false});
  CHECK(decisions.recorded("noise").empty());
  CHECK(ids_of(r.selected) == std::vector<std::int32_t>{2, 0, 1, 2});
  const double w = std::exp(0.5) / (std::exp(0.5) + 1.0);
  CHECK(r.weights.value().at(0) == doctest::Approx(w).epsilon(1e-13));
  CHECK(r.weights.value().at(1) == doctest::Approx(1.0 - w).epsilon(1e-13));
  CHECK(r.weights.value().at(2) == 0.5);
}

TEST_CASE("features of 1e4 that the noise reads leave everything finite") {
  Tensor o = Tensor::empty({kTokens, kExperts}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < o.numel(); ++i) o.write<double>()[i] = i % 3 == 0 ? 1e4 : -1e4;
  for (const DType dtype : {DType::f64, DType::f32}) {
    Tape tape;
    const Var x = tape.variable(o.to(dtype));
    Weights weights;
    weights.set("router.weight", tape.constant(identity(kExperts).to(dtype)));
    const Tensor wn = Rng{5, 0, 0}.normal({kExperts, kExperts}, DType::f64);
    weights.set("router.noise", tape.variable(wn.to(dtype)));
    const Routing r = router_of("noisy-top-k")->route(kSize, {x, weights, true});
    const Gradients g = tape.backward(sum(square(r.weights)) + r.auxiliary);
    for (const double v : g[x].to_vector()) CHECK(std::isfinite(v));
    for (const double v : g[weights.at("router.noise")].to_vector()) CHECK(std::isfinite(v));
  }
}
