// moesart by its closed forms: w_j = g_j/(1+g_j), w_i = 1/((k-1)(1+g_j)).

#include <cmath>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "moe/sampling.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

constexpr std::int64_t kTokens = 3, kExperts = 5, kActive = 3;
const LayerSize kSize{kExperts, 1, 1, kExperts, kActive};

std::unique_ptr<Router> moesart(std::map<std::string, std::string> values = {}) {
  const RouterEntry& entry = router_entry("moesart");
  Options options("router moesart", entry.options);
  for (const auto& [key, value] : values) options.set(key, value);
  return entry.make(options);
}

Weights identity_weights(Tape& tape) {
  Tensor eye = Tensor::zeros({kExperts, kExperts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < kExperts; ++e) eye.write<double>()[e * kExperts + e] = 1.0;
  Weights weights;
  weights.set("router.weight", tape.constant(eye));
  return weights;
}

Tensor logits() { return Rng{4, 0, 0}.normal({kTokens, kExperts}, DType::f64, 0.0, 1.5); }

std::vector<double> scores(const Tensor& o, std::int64_t token) {
  std::vector<double> g;
  double sum = 0.0;
  for (std::int64_t e = 0; e < kExperts; ++e) sum += std::exp(o.at(token * kExperts + e));
  for (std::int64_t e = 0; e < kExperts; ++e) {
    g.push_back(std::exp(o.at(token * kExperts + e)) / sum);
  }
  return g;
}

}  // namespace

TEST_CASE("weights and router gradient in training") {
  const Tensor o = logits();
  const Tensor selected = Tensor::of<std::int32_t>({3, 3}, {4, 0, 2, 1, 2, 3, 0, 1, 4});
  const Tensor place = Tensor::of<std::int32_t>({3}, {1, 0, 2});
  const Tensor a = Rng{4, 1, 0}.normal({kTokens, kActive}, DType::f64);
  Decisions decisions;
  decisions.give("selected", selected);
  decisions.give("unadjusted", place);
  Tape tape({.decisions = &decisions});
  const Var x = tape.variable(o);
  const Routing r = moesart()->route(kSize, {x, identity_weights(tape), true});
  const Tensor w = r.weights.value();
  const Gradients gradients = tape.backward(sum(r.weights * tape.constant(a)));
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> g = scores(o, t);
    const std::int64_t at = place.data<std::int32_t>()[t];
    const std::int64_t j = selected.data<std::int32_t>()[t * kActive + at];
    const double gj = g[static_cast<std::size_t>(j)];
    double others = 0.0;
    for (std::int64_t i = 0; i < kActive; ++i) {
      const double expected = i == at ? gj / (1.0 + gj) : 1.0 / ((kActive - 1) * (1.0 + gj));
      CHECK(w.at(t * kActive + i) == doctest::Approx(expected).epsilon(1e-13));
      if (i != at) others += a.at(t * kActive + i) / (kActive - 1);
    }
    const double dg = (a.at(t * kActive + at) - others) / ((1.0 + gj) * (1.0 + gj));
    for (std::int64_t q = 0; q < kExperts; ++q) {
      const double expected = dg * gj * ((q == j ? 1.0 : 0.0) - g[static_cast<std::size_t>(q)]);
      CHECK(gradients[x].at(t * kExperts + q) == doctest::Approx(expected).epsilon(1e-12));
    }
  }
}

TEST_CASE("inference: the top k, uniform") {
  Tape tape;
  const Var x = tape.variable(logits());
  const Routing r = moesart()->route(kSize, {x, identity_weights(tape), false});
  for (std::int64_t t = 0; t < kTokens; ++t) {
    double least = 1.0;
    double chosen = 0.0;
    const std::vector<double> g = scores(logits(), t);
    for (std::int64_t i = 0; i < kActive; ++i) {
      CHECK(r.weights.value().at(t * kActive + i) == 1.0 / 3.0);
      const double p =
          g[static_cast<std::size_t>(r.selected.data<std::int32_t>()[t * kActive + i])];
      least = std::min(least, p);
      chosen += p;
    }
    double better = 0.0;
    for (const double p : g) better += p >= least ? p : 0.0;
    CHECK(better == doctest::Approx(chosen));
  }
}

TEST_CASE("the trimmed lasso and its gradient: dTL/do_q = g_q([q not in TopK] - TL)") {
  const double lambda = 0.3;
  Tape tape;
  const Tensor o = logits();
  const Var x = tape.variable(o);
  const Routing r = moesart({{"lasso", "0.3"}})->route(kSize, {x, identity_weights(tape), true});
  const double value = r.auxiliary.value().item();
  const Gradients gradients = tape.backward(r.auxiliary);
  double expected = 0.0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    std::vector<double> g = scores(o, t);
    std::vector<double> sorted = g;
    std::sort(sorted.rbegin(), sorted.rend());
    const double bound = sorted[kActive - 1];
    double lasso = 0.0;
    for (const double p : g) lasso += p < bound ? p : 0.0;
    expected += lambda * lasso / kTokens;
    for (std::int64_t q = 0; q < kExperts; ++q) {
      const double p = g[static_cast<std::size_t>(q)];
      const double dq = lambda / kTokens * p * ((p < bound ? 1.0 : 0.0) - lasso);
      CHECK(gradients[x].at(t * kExperts + q) == doctest::Approx(dq).epsilon(1e-11));
    }
  }
  CHECK(value == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("weightings: zero is constant, large is the softmax over the sample") {
  Decisions decisions;
  decisions.give("selected", Tensor::of<std::int32_t>({3, 3}, {4, 0, 2, 1, 2, 3, 0, 1, 4}));
  Tape tape({.decisions = &decisions});
  const Var x = tape.variable(logits());
  const Routing zero =
      moesart({{"weighting", "zero"}})->route(kSize, {x, identity_weights(tape), true});
  CHECK(zero.weights.value().at(0) == 1.0 / 3.0);
  CHECK_FALSE(zero.weights.needs_gradient());
  const Routing large =
      moesart({{"weighting", "large"}})->route(kSize, {x, identity_weights(tape), true});
  const std::vector<double> g = scores(logits(), 0);
  CHECK(large.weights.value().at(1) == doctest::Approx(g[0] / (g[4] + g[0] + g[2])));
}

// Pearson's chi-squared of live samples of 2 of 4 experts against the exact probabilities
// g_a g_b/(1 - g_a) of the 12 ordered pairs; 11 degrees of freedom, 0.1 % at 31.3.
TEST_CASE("live sampling has the probabilities of sequential draws") {
  const std::vector<double> o = {0.5, -0.7, 1.1, 0.0};
  constexpr std::int64_t kSamples = 40000;
  std::vector<double> rows;
  for (std::int64_t s = 0; s < kSamples; ++s) rows.insert(rows.end(), o.begin(), o.end());
  Tape tape({.rng = Rng{99, 0, 0}});
  const Var x = tape.constant(Tensor::of<double>({kSamples, 4}, rows));
  const Tensor drawn = sample_experts(x, 2, false);
  std::vector<double> g;
  double sum = 0.0;
  for (const double v : o) sum += std::exp(v);
  for (const double v : o) g.push_back(std::exp(v) / sum);
  double count[4][4] = {};
  for (std::int64_t s = 0; s < kSamples; ++s) {
    count[drawn.data<std::int32_t>()[2 * s]][drawn.data<std::int32_t>()[2 * s + 1]] += 1.0;
  }
  double chi2 = 0.0;
  for (std::size_t a = 0; a < 4; ++a) {
    CHECK(count[a][a] == 0.0);
    for (std::size_t b = 0; b < 4; ++b) {
      if (a == b) continue;
      const double expected = kSamples * g[a] * g[b] / (1.0 - g[a]);
      chi2 += (count[a][b] - expected) * (count[a][b] - expected) / expected;
    }
  }
  CHECK(chi2 < 31.3);
}

TEST_CASE("enumeration gives the probabilities of sequential draws, with and without replacement") {
  const std::vector<double> o = {0.5, -0.7, 1.1};
  const double sum = std::exp(0.5) + std::exp(-0.7) + std::exp(1.1);
  for (const bool replacement : {false, true}) {
    Decisions decisions = Decisions::enumerator();
    double total = 0.0;
    int outcomes = 0;
    do {
      Tape tape({.decisions = &decisions});
      const Tensor drawn =
          sample_experts(tape.constant(Tensor::of<double>({1, 3}, o)), 2, replacement);
      const auto a = static_cast<std::size_t>(drawn.data<std::int32_t>()[0]);
      const auto b = static_cast<std::size_t>(drawn.data<std::int32_t>()[1]);
      const double ga = std::exp(o[a]) / sum;
      const double gb = std::exp(o[b]) / sum;
      CHECK(decisions.probability() ==
            doctest::Approx(replacement ? ga * gb : ga * gb / (1.0 - ga)).epsilon(1e-13));
      total += decisions.probability();
      ++outcomes;
    } while (decisions.next_outcome());
    CHECK(outcomes == (replacement ? 9 : 6));
    CHECK(total == doctest::Approx(1.0).epsilon(1e-14));
  }
}
