// Every sampler against the exact probabilities of its outcomes: live by Pearson's chi-squared with
// fixed seeds (bounds at 0.1 %), enumerated to 1e-12.

#include "moe/sampling.h"

#include <cmath>
#include <map>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kExperts = 5, kSamples = 20000;
const std::vector<double> kLogits = {0.5, -0.7, 1.1, 0.0, -1.6};
using Outcomes = std::map<std::uint32_t, double>;  // by the bits of the set

std::vector<double> softmax_of_logits() {
  double sum = 0.0;
  std::vector<double> g;
  for (const double v : kLogits) sum += std::exp(v);
  for (const double v : kLogits) g.push_back(std::exp(v) / sum);
  return g;
}

// Draw after draw from the softmax over what is left: all orders, by plain recursion.
void draw(const std::vector<double>& g, int k, std::uint32_t set, double p, Outcomes& out) {
  if (k == 0) {
    out[set] += p;
    return;
  }
  double left = 0.0;
  for (std::size_t i = 0; i < g.size(); ++i) left += ((set >> i) & 1U) != 0 ? 0.0 : g[i];
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (((set >> i) & 1U) == 0) draw(g, k - 1, set | (1U << i), p * g[i] / left, out);
  }
}

Outcomes sequential(int k) {
  Outcomes out;
  draw(softmax_of_logits(), k, 0, 1.0, out);
  return out;
}

// prod_S e^o / sum over all sets.
Outcomes conditional_bernoulli(int k) {
  Outcomes out;
  double sum = 0.0;
  for (std::uint32_t set = 0; set < 32; ++set) {
    double product = 1.0;
    int size = 0;
    for (std::size_t i = 0; i < 5; ++i) {
      if (((set >> i) & 1U) == 0) continue;
      product *= std::exp(kLogits[i]);
      ++size;
    }
    if (size == k) sum += out[set] = product;
  }
  for (auto& [set, p] : out) p /= sum;
  return out;
}

Tensor rows_of_logits(std::int64_t tokens) {
  const Tensor x = Tensor::empty({tokens, kExperts}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.write<double>()[i] = kLogits[static_cast<std::size_t>(i % kExperts)];
  }
  return x;
}

Routing route(const std::string& name, std::int64_t k, Tape& tape, std::int64_t tokens,
              const std::map<std::string, std::string>& options = {}) {
  const RouterEntry& entry = router_entry(name);
  const Tensor eye = Tensor::zeros({kExperts, kExperts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < kExperts; ++e) eye.write<double>()[e * kExperts + e] = 1.0;
  Weights weights;
  weights.set("router.weight", tape.constant(eye));
  weights.set("router.omega", tape.constant(Tensor::full({1}, 1.0, DType::f64, Device::cpu)));
  Options chosen("router", entry.options);
  for (const auto& [option, value] : options) chosen.set(option, value);
  return entry.make(chosen)->route({kExperts, 1, 1, kExperts, k},
                                   {tape.constant(rows_of_logits(tokens)), weights, true});
}

std::uint32_t set_of(const Tensor& selected, std::int64_t token) {
  std::uint32_t set = 0;
  for (std::int64_t j = 0; j < selected.size(1); ++j) {
    set |= 1U << selected.data<std::int32_t>()[token * selected.size(1) + j];
  }
  return set;
}

double chi_squared(const Outcomes& expected, const Outcomes& counted, double samples) {
  double chi2 = 0.0;
  double seen = 0.0;
  for (const auto& [outcome, p] : expected) {
    const auto at = counted.find(outcome);
    const double count = at == counted.end() ? 0.0 : at->second;
    chi2 += (count - samples * p) * (count - samples * p) / (samples * p);
    seen += count;
  }
  CHECK(seen == samples);  // nothing outside of the expected outcomes
  return chi2;
}

double live_chi_squared(const std::string& router, std::int64_t k, const Outcomes& expected) {
  Tape tape({.gradients = false, .rng = Rng{31, 0, 0}});
  const Tensor selected = route(router, k, tape, kSamples).selected;
  Outcomes counted;
  for (std::int64_t t = 0; t < kSamples; ++t) counted[set_of(selected, t)] += 1.0;
  return chi_squared(expected, counted, kSamples);
}

void check_enumerated(const std::string& router, std::int64_t k, const Outcomes& expected) {
  Decisions decisions = Decisions::enumerator();
  Outcomes found;
  do {
    Tape tape({.gradients = false, .decisions = &decisions});
    const std::uint32_t set = set_of(route(router, k, tape, 1).selected, 0);
    found[set] += decisions.probability();
  } while (decisions.next_outcome());
  CAPTURE(router);
  CHECK(found.size() == expected.size());
  for (const auto& [set, p] : expected) CHECK(std::abs(found[set] - p) <= 1e-12 * p);
}

}  // namespace

TEST_CASE("live sets of sequential sampling, 3 of 5") {
  CHECK(live_chi_squared("unordered-set", 3, sequential(3)) < 27.88);  // 9 degrees of freedom
  CHECK(live_chi_squared("horvitz-thompson", 3, sequential(3)) < 27.88);
}

TEST_CASE("live sets of priority sampling, 3 of 5: Gumbel top-k") {
  CHECK(live_chi_squared("priority", 3, sequential(3)) < 27.88);
}

TEST_CASE("live sets of the conditional Bernoulli walk, 3 of 5") {
  CHECK(live_chi_squared("conditional-bernoulli", 3, conditional_bernoulli(3)) < 27.88);
}

TEST_CASE("the live test tells the two distributions apart") {
  CHECK(live_chi_squared("conditional-bernoulli", 3, sequential(3)) > 100.0);
  CHECK(live_chi_squared("unordered-set", 3, conditional_bernoulli(3)) > 100.0);
}

TEST_CASE("live draws of one expert") {
  CHECK(live_chi_squared("categorical", 1, sequential(1)) < 18.47);  // 4 degrees of freedom
  CHECK(live_chi_squared("conditional-bernoulli", 1, sequential(1)) < 18.47);
}

TEST_CASE("live draws with replacement: ordered pairs") {
  const std::vector<double> g = softmax_of_logits();
  Tape tape({.rng = Rng{32, 0, 0}});
  const Tensor drawn = sample_experts(tape.constant(rows_of_logits(kSamples)), 2, true);
  Outcomes expected;
  Outcomes counted;
  for (std::uint32_t a = 0; a < 5; ++a) {
    for (std::uint32_t b = 0; b < 5; ++b) expected[5 * a + b] = g[a] * g[b];
  }
  for (std::int64_t t = 0; t < kSamples; ++t) {
    const std::int32_t* pair = drawn.data<std::int32_t>() + 2 * t;
    counted[static_cast<std::uint32_t>(5 * pair[0] + pair[1])] += 1.0;
  }
  CHECK(chi_squared(expected, counted, kSamples) < 51.18);  // 24 degrees of freedom
}

// The drawn expert and its factor s: outcome 2 D, and 2 D + 1 where s is the smaller one.
TEST_CASE("live and enumerated draws of sparsemixer and its factor") {
  const std::vector<double> g = softmax_of_logits();
  for (const auto& entry : {std::pair("sparsemixer", 0.5), {"sparsemixer-v2", 0.25}}) {
    const auto& name = entry.first;
    const auto& whole = entry.second;
    CAPTURE(name);
    Outcomes expected;
    for (std::uint32_t i = 0; i < 5; ++i) {
      const bool largest = i == 2;
      expected[2 * i] = g[i] * (largest ? 1.0 : whole);
      if (!largest) expected[2 * i + 1] = g[i] * (1.0 - whole);
    }
    const std::map<std::string, std::string> options = {{"epsilon", "10"}};  // nothing is masked
    const auto outcome = [](const Routing& r, std::int64_t t) {
      const std::uint32_t drawn = 2U * static_cast<std::uint32_t>(r.selected.at(t));
      return drawn + (r.scale.at(t) < 1.0 ? 1U : 0U);
    };
    Tape tape({.gradients = false, .rng = Rng{33, 0, 0}});
    const Routing live = route(name, 1, tape, kSamples, options);
    Outcomes counted;
    for (std::int64_t t = 0; t < kSamples; ++t) counted[outcome(live, t)] += 1.0;
    CHECK(chi_squared(expected, counted, kSamples) < 26.12);  // 8 degrees of freedom

    Decisions decisions = Decisions::enumerator();
    Outcomes found;
    do {
      Tape one({.gradients = false, .decisions = &decisions});
      const std::uint32_t at = outcome(route(name, 1, one, 1, options), 0);
      found[at] += decisions.probability();
    } while (decisions.next_outcome());
    for (const auto& [at, p] : expected) CHECK(std::abs(found[at] - p) <= 1e-12);
  }
}

TEST_CASE("gshard keeps its second expert with probability min(1, 2 w)") {
  const double second = std::exp(kLogits[0]) / (std::exp(kLogits[0]) + std::exp(kLogits[2]));
  Tape tape({.gradients = false, .rng = Rng{34, 0, 0}});
  const Tensor selected = route("gshard", 2, tape, kSamples, {{"capacity", "1e6"}}).selected;
  Outcomes counted;
  for (std::int64_t t = 0; t < kSamples; ++t) {
    CHECK(selected.at(2 * t) == 2.0);
    counted[selected.at(2 * t + 1) == 0.0 ? 1U : 0U] += 1.0;
  }
  const double kept = 2.0 * second;                                             // 0.71
  CHECK(chi_squared({{1, kept}, {0, 1.0 - kept}}, counted, kSamples) < 10.83);  // one degree
}

TEST_CASE("enumerated probabilities are the closed forms") {
  for (std::int64_t k = 1; k <= 5; ++k) {
    const int size = static_cast<int>(k);
    check_enumerated("unordered-set", k, sequential(size));
    check_enumerated("horvitz-thompson", k, sequential(size));
    check_enumerated("conditional-bernoulli", k, conditional_bernoulli(size));
  }
  check_enumerated("categorical", 1, sequential(1));
}

TEST_CASE("the categorical choice is the argmax of logits and noise, which are kept") {
  Tape tape({.rng = Rng{33, 0, 0}});
  const Routing r = route("categorical", 1, tape, 50);
  for (std::int64_t t = 0; t < 50; ++t) {
    std::size_t best = 0;
    std::vector<double> noisy;
    for (std::size_t e = 0; e < 5; ++e) {
      noisy.push_back(kLogits[e] + r.noise.at(t * 5 + static_cast<std::int64_t>(e)));
      if (noisy[e] > noisy[best]) best = e;
    }
    CHECK(r.selected.data<std::int32_t>()[t] == static_cast<std::int32_t>(best));
  }
}
