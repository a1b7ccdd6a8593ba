#include "moe/probability/conditional_bernoulli.h"

#include <cmath>

#include "moe/probability/log_space.h"
#include "moe/probability/subsets.h"

namespace moegrad {
std::vector<double> log_elementary_symmetric(std::span<const double> logits, std::int64_t k) {
  require_k(logits, k);
  std::vector<double> e(static_cast<std::size_t>(k) + 1, kLogZero);
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
  std::vector<std::vector<double>> before(experts, std::vector<double>(active, kLogZero));
  before[0][0] = 0.0;
  const auto add = [](std::vector<double> e, double o) {
    for (std::size_t j = e.size(); j-- > 1;) e[j] = log_add(e[j], e[j - 1] + o);
    return e;
  };
  for (std::size_t i = 0; i + 1 < experts; ++i) before[i + 1] = add(before[i], logits[i]);
  std::vector<double> after(active, kLogZero);
  after[0] = 0.0;
  const double total = log_elementary_symmetric(logits, k).back();
  std::vector<double> marginals(experts);
  for (std::size_t i = experts; i-- > 0;) {
    double others = kLogZero;
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
  std::vector<double> log_ratio(columns, kLogZero);
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
