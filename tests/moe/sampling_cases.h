// Routings of fixed logits, and probabilities of sets by plain loops, for the tests of sampling
// routers.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/checks/moments.h"
#include "moe/probability/conditional_bernoulli.h"
#include "moe/probability/inclusion.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad::test {

inline constexpr std::int64_t kTokens = 3, kExperts = 5, kActive = 3;
using Given = std::vector<std::pair<std::string, Tensor>>;

inline Tensor logits() { return Rng{6, 0, 0}.normal({kTokens, kExperts}, DType::f64, 0.0, 1.3); }
inline Tensor some_selected() {
  return Tensor::of<std::int32_t>({3, 3}, {4, 0, 2, 1, 2, 3, 0, 1, 4});
}

inline std::unique_ptr<Router> make(const std::string& name,
                                    std::map<std::string, std::string> values) {
  const RouterEntry& entry = router_entry(name);
  Options options("router " + name, entry.options);
  for (const auto& [key, value] : values) options.set(key, value);
  return entry.make(options);
}

struct Run {
  Routing routing;
  Tensor selected, weights, scores, gradient;  // of sum_j a_j w_j, by logit
};

inline Run run(const std::string& name, const Tensor& o, const Given& given, std::int64_t k,
               const Tensor& a = {}, bool training = true,
               std::map<std::string, std::string> options = {}) {
  Decisions decisions;
  for (const auto& [kind, value] : given) decisions.give(kind, value);
  Tape tape({.rng = Rng{3, 0, 0}, .decisions = &decisions});
  const std::int64_t experts = o.size(1);
  const Tensor eye = Tensor::zeros({experts, experts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < experts; ++e) eye.write<double>()[e * experts + e] = 1.0;
  Weights weights;
  weights.set("router.weight", tape.constant(eye));
  const Var x = tape.variable(o);
  Run out;
  out.routing =
      make(name, std::move(options))->route({experts, 1, 1, experts, k}, {x, weights, training});
  const Routing& r = out.routing;
  out.selected = r.selected;
  out.weights = r.weights.value();
  out.scores = r.scores.value();
  const Tensor cotangent =
      a.defined() ? a : Tensor::full(out.weights.shape(), 1.0, DType::f64, Device::cpu);
  out.gradient = tape.backward(sum(r.weights * tape.constant(cotangent)))[x];
  return out;
}

inline std::vector<double> scores(const Tensor& o, std::int64_t token) {
  std::vector<double> g;
  for (std::int64_t e = 0; e < o.size(1); ++e) g.push_back(std::exp(o.at(token * o.size(1) + e)));
  const double sum = std::accumulate(g.begin(), g.end(), 0.0);
  for (double& p : g) p /= sum;
  return g;
}

inline std::vector<std::size_t> set_of(const Tensor& selected, std::int64_t token) {
  std::vector<std::size_t> set;
  for (std::int64_t j = 0; j < selected.size(1); ++j) {
    set.push_back(
        static_cast<std::size_t>(selected.data<std::int32_t>()[token * selected.size(1) + j]));
  }
  return set;
}

// P(S), summed over the orders that begin with `first` (all where it is -1).
inline double probability(const std::vector<double>& g, std::vector<std::size_t> set, int first) {
  std::sort(set.begin(), set.end());
  double sum = 0.0;
  do {
    if (first >= 0 && set[0] != static_cast<std::size_t>(first)) continue;
    double p = 1.0;
    double left = 1.0;
    for (const std::size_t i : set) {
      p *= g[i] / left;
      left -= g[i];
    }
    sum += p;
  } while (std::next_permutation(set.begin(), set.end()));
  return sum;
}

inline std::vector<std::vector<std::size_t>> all_sets(std::size_t experts, std::size_t k) {
  std::vector<std::vector<std::size_t>> sets;
  for (std::uint32_t mask = 0; mask < (1U << experts); ++mask) {
    std::vector<std::size_t> set;
    for (std::size_t i = 0; i < experts; ++i) {
      if (((mask >> i) & 1U) != 0) set.push_back(i);
    }
    if (set.size() == k) sets.push_back(set);
  }
  return sets;
}

// Weights g R with R constant: dL/do_q = [q in S] a_q w_q - g_q sum_S a_i w_i.
inline void check_held_gradient(const Run& r, const Tensor& o, const Tensor& a) {
  const std::int64_t k = r.weights.size(1);
  for (std::int64_t t = 0; t < o.size(0); ++t) {
    const std::vector<double> g = scores(o, t);
    const std::vector<std::size_t> set = set_of(r.selected, t);
    std::vector<double> expected(g.size(), 0.0);
    for (std::int64_t j = 0; j < k; ++j) {
      const double term = a.at(t * k + j) * r.weights.at(t * k + j);
      expected[set[static_cast<std::size_t>(j)]] += term;
      for (std::size_t q = 0; q < g.size(); ++q) expected[q] -= g[q] * term;
    }
    for (std::size_t q = 0; q < g.size(); ++q) {
      const double found = r.gradient.at(t * o.size(1) + static_cast<std::int64_t>(q));
      CHECK(std::abs(found - expected[q]) < 1e-13);
    }
  }
}

}  // namespace moegrad::test
