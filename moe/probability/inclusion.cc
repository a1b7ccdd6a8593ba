#include "moe/probability/inclusion.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "moe/probability/log_space.h"
#include "moe/probability/subsets.h"

namespace moegrad {
namespace {

// Experts that come at exponential times of given rates. At one time t, for each expert:
//   away[i] = e^(-rate_i t), that it has not come yet;
//   fewer[i], that fewer than k of the others have come.
class Arrivals {
 public:
  Arrivals(std::vector<double> rates, std::size_t k)
      : away(rates.size()),
        fewer(rates.size()),
        rates_(std::move(rates)),
        before_((rates_.size() + 1) * k, 0.0),
        after_(k) {
    before_[0] = 1.0;
  }

  void move_to(double time) {
    const std::size_t experts = rates_.size();
    const std::size_t k = after_.size();
    for (std::size_t i = 0; i < experts; ++i) {
      const double stay = std::exp(-rates_[i] * time);
      away[i] = stay;
      const double* row = &before_[i * k];
      double* next = &before_[(i + 1) * k];
      next[0] = row[0] * stay;
      for (std::size_t a = 1; a < k; ++a) next[a] = row[a] * stay + row[a - 1] * (1.0 - stay);
    }
    std::fill(after_.begin(), after_.end(), 1.0);
    for (std::size_t i = experts; i-- > 0;) {
      const double stay = away[i];
      double sum = 0.0;
      for (std::size_t a = 0; a < k; ++a) sum += before_[i * k + a] * after_[k - 1 - a];
      fewer[i] = sum;
      for (std::size_t b = k - 1; b > 0; --b) {
        after_[b] = after_[b] * stay + after_[b - 1] * (1.0 - stay);
      }
      after_[0] *= stay;
    }
  }

  std::vector<double> away, fewer;

 private:
  std::vector<double> rates_;
  std::vector<double> before_;  // [i][a]: that a of the experts 0 .. i-1 have come
  std::vector<double> after_;   // [b]: that at most b of those after i have come
};

// Over the time t of an expert's own arrival, with x_i = rate_i t, rate_i = g_i / g_reference:
//   missed[i] = int x_i e^{-x_i} P(k of the others or more have come by t) dt/t = 1 - pi_i
//   taken[i]  = int t e^{-x_i} P(fewer than k of the others have come by t) dt/t = pi_i / rate_i
// by the trapezoidal rule in u = log t, from `from` on.
struct ArrivalIntegrals {
  std::vector<double> missed, taken;
};
ArrivalIntegrals integrate_arrivals(std::span<const double> logits, std::size_t k, double reference,
                                    double from) {
  std::vector<double> rates;
  for (const double o : logits) rates.push_back(std::exp(o - reference));
  Arrivals arrivals(rates, k);
  ArrivalIntegrals integrals{std::vector<double>(rates.size(), 0.0),
                             std::vector<double>(rates.size(), 0.0)};
  const double step = trapezoid_step(k);
  for (double u = from; u <= 4.2; u += step) {
    const double time = std::exp(u);
    arrivals.move_to(time);
    for (std::size_t i = 0; i < rates.size(); ++i) {
      if (arrivals.away[i] == 0.0) continue;  // its rate may be infinite
      const double density = time * arrivals.away[i] * step;
      integrals.missed[i] += density * rates[i] * std::fmax(0.0, 1.0 - arrivals.fewer[i]);
      integrals.taken[i] += density * arrivals.fewer[i];
    }
  }
  return integrals;
}

}  // namespace

std::vector<double> log_inclusion_by_subsets(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  const std::size_t experts = logits.size();
  require_at_most(experts, 20, "experts");
  if (static_cast<std::size_t>(k) == experts) return std::vector<double>(experts, 0.0);
  // reached[T]: log probability that the first |T| draws are T.
  const std::uint32_t all = (1U << experts) - 1;
  std::vector<double> reached(all + 1U, kLogZero);
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

// pi_i is 1 - missed_i for the experts above the pivot, the (k+1)-th largest logit, and rate_i
// taken_i for the rest, which loses no digits in either. The former miss the sample only where one
// of the others comes before: times near 1 / g_pivot count. The others get in before the last of
// the k largest has come: times near 1 / g_(k-th) count. Where the two scales are near, one range
// covers both. Outside of them the integrands fall as e^u to the left and as exp(-e^u) to the
// right.
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
  const bool together = kth - pivot < 20.0;
  const ArrivalIntegrals near_pivot =
      integrate_arrivals(logits, active, pivot, together ? from - (kth - pivot) : from);
  const ArrivalIntegrals near_kth =
      together ? near_pivot : integrate_arrivals(logits, active, kth, from);
  const double reference = together ? pivot : kth;
  std::vector<double> inclusion;
  for (std::size_t i = 0; i < experts; ++i) {
    const double log_pi = logits[i] > pivot ? std::log1p(-near_pivot.missed[i])
                                            : logits[i] - reference + std::log(near_kth.taken[i]);
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
  double second = kLogZero;  // the largest of the other logits
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

}  // namespace moegrad
