#include "moe/probability/sets.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "moe/probability/log_space.h"
#include "moe/probability/subsets.h"

namespace moegrad {
namespace {

std::vector<double> at_places(std::span<const double> logits, std::span<const std::int32_t> set) {
  std::vector<bool> taken(logits.size(), false);
  std::vector<double> values;
  for (const std::int32_t i : set) {
    if (i < 0 || static_cast<std::size_t>(i) >= logits.size() ||
        taken[static_cast<std::size_t>(i)]) {
      fail("set_probability", "expert {} of {} is not there, or twice. Give distinct experts.", i,
           logits.size());
    }
    taken[static_cast<std::size_t>(i)] = true;
    values.push_back(logits[static_cast<std::size_t>(i)]);
  }
  return values;
}

// logsumexp of the logits outside the set.
double log_rest(std::span<const double> logits, std::span<const std::int32_t> set) {
  std::vector<double> rest;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::find(set.begin(), set.end(), static_cast<std::int32_t>(i)) == set.end()) {
      rest.push_back(logits[i]);
    }
  }
  return log_sum_exp(rest);
}

// From log P^{without i}(S \ i) to P(S) = sum_i g_i P^{without i}(S \ i), R and the first draw.
SetProbability from_others(std::span<const double> logits, const std::vector<double>& inside,
                           const std::vector<double>& log_others) {
  const double total = log_sum_exp(logits);
  std::vector<double> terms;
  for (std::size_t a = 0; a < inside.size(); ++a) terms.push_back(inside[a] + log_others[a]);
  const double sum = log_sum_exp(terms);
  SetProbability p;
  p.log_probability = std::fmin(0.0, sum - total);
  for (std::size_t a = 0; a < inside.size(); ++a) {
    p.log_ratio.push_back(log_others[a] - (sum - total));
    p.first.push_back(std::exp(terms[a] - sum));
  }
  return p;
}

}  // namespace

SetProbability set_probability_by_orders(std::span<const double> logits,
                                         std::span<const std::int32_t> set) {
  const std::vector<double> inside = at_places(logits, set);
  const std::size_t k = inside.size();
  require_at_most(k, 20, "experts of a set");
  const double outside = log_rest(logits, set);
  // log_left[T]: logsumexp over all but T. log_complete[T]: that the draws after T complete S.
  const std::uint32_t all = (1U << k) - 1;
  std::vector<double> log_left(all + 1U);
  std::vector<double> log_complete(all + 1U, 0.0);
  log_left[all] = outside;
  for (std::uint32_t t = all; t-- > 0;) {
    const auto any = static_cast<std::size_t>(std::countr_one(t));
    log_left[t] = log_add(log_left[t | (1U << any)], inside[any]);
    double sum = kLogZero;
    for (std::size_t a = 0; a < k; ++a) {
      if (holds(t, a)) continue;
      sum = log_add(sum, inside[a] + log_complete[t | (1U << a)]);
    }
    log_complete[t] = sum - log_left[t];
  }
  std::vector<double> others;
  for (std::size_t a = 0; a < k; ++a) others.push_back(log_complete[1U << a]);
  return from_others(logits, inside, others);
}

// P(S) = int prod_{i in S} (1 - e^(-b_i e^u)) e^(u - e^u) du with b_i = g_i / (1 - g_S), and
// P^{without i}(S \ i) is the same without the factor of i. The integrand is log-concave; below
// u = 0 it falls as e^u at least, and above log(k+1) as e^(-e^u) at least: the range is fixed.
SetProbability set_probability_by_integral(std::span<const double> logits,
                                           std::span<const std::int32_t> set) {
  const std::vector<double> inside = at_places(logits, set);
  const std::size_t k = inside.size();
  if (k == logits.size()) return from_others(logits, inside, std::vector<double>(k, 0.0));
  const double outside = log_rest(logits, set);
  const double from = -44.0;
  const double to = std::log(static_cast<double>(k) + 1.0) + 4.1;
  const double step = trapezoid_step(k);
  const auto nodes = static_cast<int>((to - from) / step) + 1;
  std::vector<std::vector<double>> terms(k);
  std::vector<double> factor(k);
  for (int n = 0; n < nodes; ++n) {
    const double u = from + n * step;
    double all = u - std::exp(u);
    for (std::size_t a = 0; a < k; ++a) {
      factor[a] = log1mexp(inside[a] - outside + u);
      all += factor[a];
    }
    for (std::size_t a = 0; a < k; ++a) terms[a].push_back(all - factor[a]);
  }
  std::vector<double> others;
  for (std::size_t a = 0; a < k; ++a) others.push_back(log_sum_exp(terms[a]) + std::log(step));
  return from_others(logits, inside, others);
}

SetProbability set_probability(std::span<const double> logits, std::span<const std::int32_t> set) {
  return set.size() <= 8 ? set_probability_by_orders(logits, set)
                         : set_probability_by_integral(logits, set);
}

}  // namespace moegrad
