#include "moe/set_probability.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "tensor/error.h"

namespace moegrad {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Of the trapezoidal rules. The narrowest integrands, of large k, are about 1/sqrt(k) wide.
double step_of(std::size_t k) { return 0.5 / std::sqrt(16.0 + static_cast<double>(k)); }

double log_add(double a, double b) {
  const double largest = std::fmax(a, b);
  if (largest == kMinusInfinity) return largest;
  return largest + std::log1p(std::exp(std::fmin(a, b) - largest));
}

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

void require_k(std::span<const double> logits, std::int64_t k) {
  if (k < 1 || static_cast<std::size_t>(k) > logits.size()) {
    fail("set_probability", "k is {} with {} experts. Use 1 <= k <= {}.", k, logits.size(),
         logits.size());
  }
}

void require_at_most(std::size_t n, std::size_t limit, const char* what) {
  if (n > limit) {
    fail("set_probability", "{} {} are too many for a recursion over subsets. Use the integral.", n,
         what);
  }
}

bool holds(std::uint32_t set, std::size_t i) { return ((set >> i) & 1U) != 0; }

}  // namespace

double log_sum_exp(std::span<const double> x) {
  double largest = kMinusInfinity;
  for (const double v : x) largest = std::fmax(largest, v);
  if (largest == kMinusInfinity) return largest;
  double sum = 0.0;
  for (const double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

double log1mexp(double log_x) {
  if (log_x < -37.0) return log_x;  // 1 - e^-x = x (1 - x/2 + ...)
  const double x = std::exp(log_x);
  return x < 0.6931471805599453 ? std::log(-std::expm1(-x)) : std::log1p(-std::exp(-x));
}

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
    double sum = kMinusInfinity;
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
  const double step = step_of(k);
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

std::vector<double> log_inclusion_by_subsets(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  const std::size_t experts = logits.size();
  require_at_most(experts, 20, "experts");
  if (static_cast<std::size_t>(k) == experts) return std::vector<double>(experts, 0.0);
  // reached[T]: log probability that the first |T| draws are T.
  const std::uint32_t all = (1U << experts) - 1;
  std::vector<double> reached(all + 1U, kMinusInfinity);
  std::vector<std::vector<double>> by_expert(experts);
  reached[0] = 0.0;
  std::vector<double> left;
  for (std::uint32_t t = 0; t < all; ++t) {
    const int size = std::popcount(t);
    if (size > k) continue;
    left.clear();
    for (std::size_t i = 0; i < experts; ++i) {
      if (size == k && holds(t, i)) by_expert[i].push_back(reached[t]);
      if (!holds(t, i)) left.push_back(logits[i]);
    }
    if (size == k) continue;
    const double log_left = log_sum_exp(left);
    for (std::size_t i = 0; i < experts; ++i) {
      if (holds(t, i)) continue;
      double& next = reached[t | (1U << i)];
      next = log_add(next, reached[t] + logits[i] - log_left);
    }
  }
  std::vector<double> inclusion;
  for (const auto& terms : by_expert) inclusion.push_back(std::fmin(0.0, log_sum_exp(terms)));
  return inclusion;
}

namespace {

// Of all experts, by their exponential arrival times t = e^u / g_reference, one node of u after the
// other: int x_i e^{-x_i} P(k others or more have come) du, with x_i = g_i t, for those above the
// pivot where `above`; and int (x_i / g_i) e^{-x_i} P(fewer than k others have come) du, in units
// of the reference, for the rest where `below`.
void add_arrivals(std::span<const double> logits, std::size_t k, double pivot, double reference,
                  double from, bool above, bool below, std::vector<double>& integrals) {
  const std::size_t experts = logits.size();
  std::vector<double> rate(experts);
  for (std::size_t i = 0; i < experts; ++i) rate[i] = std::exp(logits[i] - reference);
  std::vector<double> waits(experts);
  std::vector<double> before((experts + 1) * k,
                             0.0);  // [i][a]: a of the experts 0 .. i-1 have come
  std::vector<double> after(k);     // [b]: at most b of those after i have come
  before[0] = 1.0;
  const double step = step_of(k);
  for (double u = from; u <= 4.2; u += step) {
    const double time = std::exp(u);
    for (std::size_t i = 0; i < experts; ++i) {
      const double stay = std::exp(-rate[i] * time);
      const double* row = &before[i * k];
      double* next = &before[(i + 1) * k];
      waits[i] = stay;
      next[0] = row[0] * stay;
      for (std::size_t a = 1; a < k; ++a) next[a] = row[a] * stay + row[a - 1] * (1.0 - stay);
    }
    std::fill(after.begin(), after.end(), 1.0);
    for (std::size_t i = experts; i-- > 0;) {
      const bool is_above = logits[i] > pivot;
      if (waits[i] > 0.0 && (is_above ? above : below)) {
        double fewer = 0.0;
        for (std::size_t a = 0; a < k; ++a) fewer += before[i * k + a] * after[k - 1 - a];
        const double density = time * waits[i] * step;
        integrals[i] +=
            is_above ? density * rate[i] * std::fmax(0.0, 1.0 - fewer) : density * fewer;
      }
      for (std::size_t b = k - 1; b > 0; --b) {
        after[b] = after[b] * waits[i] + after[b - 1] * (1.0 - waits[i]);
      }
      after[0] *= waits[i];
    }
  }
}

}  // namespace

// The experts above the pivot, the (k+1)-th largest logit, miss the sample only where one of the
// others comes before: 1 - pi_i is an integral in which times near 1 / g_pivot count. The others
// get in before the last of the k largest has come: pi_i / g_i is one of times near 1 / g_(k-th).
// Where the two scales are near, one range covers both. Outside of them the integrands fall as e^u
// to the left and as exp(-e^u) to the right.
std::vector<double> log_inclusion_by_integral(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  const std::size_t experts = logits.size();
  const auto active = static_cast<std::size_t>(k);
  if (active == experts) return std::vector<double>(experts, 0.0);
  std::vector<double> sorted(logits.begin(), logits.end());
  std::sort(sorted.rbegin(), sorted.rend());
  const double pivot = sorted[active];
  const double kth = sorted[active - 1];
  const double from = -38.0;
  std::vector<double> integrals(experts, 0.0);
  const bool together = kth - pivot < 20.0;
  const double reference = together ? pivot : kth;
  add_arrivals(logits, active, pivot, pivot, together ? from - (kth - pivot) : from, true, together,
               integrals);
  if (!together) add_arrivals(logits, active, pivot, kth, from, false, true, integrals);
  std::vector<double> inclusion;
  for (std::size_t i = 0; i < experts; ++i) {
    const double log_pi = logits[i] > pivot ? std::log1p(-integrals[i])
                                            : logits[i] - reference + std::log(integrals[i]);
    inclusion.push_back(std::fmin(0.0, log_pi));
  }
  return inclusion;
}

// pi_i = g_i (1 + sum of g_j / (1 - g_j) over j != i). At most one of the odds g_j / (1 - g_j) is
// above 1, that of the largest logit: it is kept as a log, the others as numbers.
std::vector<double> log_inclusion_of_two(std::span<const double> logits) {
  require_k(logits, 2);
  const std::size_t experts = logits.size();
  if (experts == 2) return {0.0, 0.0};
  const auto top =
      static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<double> odds(experts);
  double second = kMinusInfinity;  // the largest of the other logits
  double sum = 0.0;
  for (std::size_t i = 0; i < experts; ++i) {
    if (i == top) continue;
    odds[i] = std::exp(logits[i] - logits[top]);
    second = std::fmax(second, logits[i]);
    sum += odds[i];
  }
  double rest = 0.0;  // the sum in units of the second
  double all = 0.0;   // of the odds
  for (std::size_t i = 0; i < experts; ++i) {
    if (i == top) continue;
    rest += std::exp(logits[i] - second);
    odds[i] /= 1.0 + sum - odds[i];
    all += odds[i];
  }
  const double top_odds = logits[top] - second - std::log(rest);
  std::vector<double> inclusion;
  for (std::size_t i = 0; i < experts; ++i) {
    const double log_g = logits[i] - logits[top] - std::log1p(sum);
    const double others = i == top ? std::log1p(all) : log_add(std::log1p(all - odds[i]), top_odds);
    inclusion.push_back(std::fmin(0.0, log_g + others));
  }
  return inclusion;
}

std::vector<double> log_inclusion(std::span<const double> logits, std::int64_t k) {
  if (k == 1) {
    require_k(logits, k);
    const double total = log_sum_exp(logits);
    std::vector<double> log_g(logits.begin(), logits.end());
    for (double& v : log_g) v -= total;
    return log_g;
  }
  if (k == 2) return log_inclusion_of_two(logits);
  return logits.size() <= 10 ? log_inclusion_by_subsets(logits, k)
                             : log_inclusion_by_integral(logits, k);
}

std::vector<double> log_elementary_symmetric(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  std::vector<double> e(static_cast<std::size_t>(k) + 1, kMinusInfinity);
  e[0] = 0.0;
  for (const double o : logits) {
    for (std::size_t j = e.size(); j-- > 1;) e[j] = log_add(e[j], e[j - 1] + o);
  }
  return e;
}

std::vector<double> conditional_bernoulli_marginals(std::span<const double> logits,
                                                    std::int64_t k) {
  require_k(logits, k);
  const std::size_t experts = logits.size();
  const auto active = static_cast<std::size_t>(k);
  // log e_j of the experts 0 .. i-1, j < k; then of those after i.
  std::vector<std::vector<double>> before(experts, std::vector<double>(active, kMinusInfinity));
  before[0][0] = 0.0;
  const auto add = [](std::vector<double> e, double o) {
    for (std::size_t j = e.size(); j-- > 1;) e[j] = log_add(e[j], e[j - 1] + o);
    return e;
  };
  for (std::size_t i = 0; i + 1 < experts; ++i) before[i + 1] = add(before[i], logits[i]);
  std::vector<double> after(active, kMinusInfinity);
  after[0] = 0.0;
  const double total = log_elementary_symmetric(logits, k).back();
  std::vector<double> marginals(experts);
  for (std::size_t i = experts; i-- > 0;) {
    double others = kMinusInfinity;
    for (std::size_t a = 0; a < active; ++a) {
      others = log_add(others, before[i][a] + after[active - 1 - a]);
    }
    marginals[i] = std::exp(logits[i] + others - total);
    after = add(after, logits[i]);
  }
  return marginals;
}

// e^o_i e_{j-1}(0 .. i-1) / e_j(0 .. i) = sigmoid(o_i - log r_j), with the ratios r_j = e_j /
// e_{j-1} of the experts before i: r_j' = (r_j + e^o) / (1 + e^o / r_{j-1}). No number is larger
// than the logits, however many of them there are.
std::vector<double> conditional_bernoulli_walk(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  const std::size_t experts = logits.size();
  const std::size_t columns = static_cast<std::size_t>(k) + 1;
  std::vector<double> take(experts * columns, 0.0);
  std::vector<double> log_ratio(columns, kMinusInfinity);
  for (std::size_t i = 0; i < experts; ++i) {
    const double o = logits[i];
    for (std::size_t j = columns; j-- > 1;) {
      if (j > i + 1) continue;
      // All of the experts 0 .. i, or a choice.
      take[i * columns + j] = j == i + 1 ? 1.0 : 1.0 / (1.0 + std::exp(log_ratio[j] - o));
      const double either = log_add(log_ratio[j], o);
      log_ratio[j] = j == 1 ? either : either - log_add(0.0, o - log_ratio[j - 1]);
    }
  }
  return take;
}

}  // namespace moegrad
