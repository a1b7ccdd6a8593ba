#include "moe/score_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "tensor/cpu_parallel.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTokensPerOrder = 64;  // that are ordered together

// high + low, the second below the rounding of the first; then what decides between equal sums.
struct ExactSum {
  double high = 0.0;
  double low = 0.0;
  double logit = 0.0;

  bool operator<(const ExactSum& b) const {
    if (high != b.high) return high < b.high;
    if (low != b.low) return low < b.low;
    return logit < b.logit;
  }
};

// Knuth's exact sum of two numbers.
ExactSum two_sum(double a, double b) {
  const double high = a + b;
  const double part = high - a;
  return {high, (a - (high - part)) + (b - part)};
}

ExactSum operator+(const ExactSum& a, const ExactSum& b) {
  const ExactSum s = two_sum(a.high, b.high);
  return two_sum(s.high, s.low + (a.low + b.low));
}

// sigmoid(o) + b: of a positive logit s = 1 - sigmoid(-o).
ExactSum of_sigmoid(double o, double b) {
  const double part = 1.0 / (1.0 + std::exp(std::abs(o)));
  ExactSum s = two_sum(o > 0.0 ? 1.0 : 0.0, b) + ExactSum{o > 0.0 ? -part : part};
  s.logit = o;
  return s;
}

std::size_t largest_of(std::span<const double> o) {
  return static_cast<std::size_t>(std::max_element(o.begin(), o.end()) - o.begin());
}

// The next `k` of those that are open, the largest first; they are closed. A NaN is never larger.
void take_largest(std::span<const ExactSum> sums, std::vector<char>& open,
                  std::span<std::int32_t> out) {
  for (std::int32_t& id : out) {
    std::size_t best = sums.size();
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (open[i] != 0 && (best == sums.size() || sums[best] < sums[i])) best = i;
    }
    open[best] = 0;
    id = static_cast<std::int32_t>(best);
  }
}

// 1 for the experts of the `kept` best groups.
std::vector<char> open_experts(std::span<const ExactSum> sums, std::size_t groups,
                               std::size_t kept) {
  if (kept == groups) return std::vector<char>(sums.size(), 1);
  const std::size_t each = sums.size() / groups;
  std::vector<ExactSum> scores;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::span<const ExactSum> group = sums.subspan(g * each, each);
    std::vector<char> all(each, 1);
    std::vector<std::int32_t> two(std::min<std::size_t>(2, each));
    take_largest(group, all, two);
    ExactSum score = group[static_cast<std::size_t>(two[0])];
    if (each > 1) score = score + group[static_cast<std::size_t>(two[1])];
    score.logit = 0.0;
    scores.push_back(score);
  }
  std::vector<char> closed(groups, 1);
  std::vector<std::int32_t> best(kept);
  take_largest(scores, closed, best);
  std::vector<char> open(sums.size());
  for (std::size_t i = 0; i < open.size(); ++i) open[i] = closed[i / each] == 0 ? 1 : 0;
  return open;
}

}  // namespace

Tensor log_odds(const Tensor& logits) {
  const std::int64_t experts = logits.size(1);
  const Tensor o = logits.to(DType::f64);
  Tensor odds = Tensor::empty(o.shape(), DType::f64);
  cpu::parallel_for(o.size(0), kTokensPerOrder, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::span<const double> row(o.data<double>() + t * experts,
                                        static_cast<std::size_t>(experts));
      double* const out = odds.data<double>() + t * experts;
      const std::size_t top = largest_of(row);
      double second = -std::numeric_limits<double>::infinity();
      double total = 0.0;
      for (std::size_t i = 0; i < row.size(); ++i) {
        total += std::exp(row[i] - row[top]);
        if (i != top) second = std::fmax(second, row[i]);
      }
      double others = 0.0;
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i == top) continue;
        others += std::exp(row[i] - second);
        // The others hold the largest: at least 1 of the total is theirs.
        out[i] = row[i] - row[top] - std::log(total - std::exp(row[i] - row[top]));
      }
      out[top] = row[top] - second - (experts > 1 ? std::log(others) : 0.0);
    }
  });
  return odds;
}

Tensor top_biased(Score score, const Tensor& logits, const Tensor& bias, std::int64_t k,
                  std::int64_t groups, std::int64_t kept) {
  const std::int64_t experts = logits.size(1);
  const Tensor o = logits.to(DType::f64);
  const Tensor b = bias.to(DType::f64);
  Tensor selected = Tensor::empty({o.size(0), k}, DType::i32);
  cpu::parallel_for(o.size(0), kTokensPerOrder, [&](std::int64_t begin, std::int64_t end) {
    std::vector<ExactSum> sums(static_cast<std::size_t>(experts));
    for (std::int64_t t = begin; t < end; ++t) {
      const std::span<const double> row(o.data<double>() + t * experts, sums.size());
      double log_total = 0.0;
      if (score == Score::softmax) {
        const double top = row[largest_of(row)];
        for (const double x : row) log_total += std::exp(x - top);
        log_total = top + std::log(log_total);
      }
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const double bi = b.data<double>()[i];
        if (score == Score::sigmoid) {
          sums[i] = of_sigmoid(row[i], bi);
        } else {
          sums[i] = two_sum(bi, std::exp(row[i] - log_total));
          sums[i].logit = row[i];
        }
      }
      std::vector<char> open =
          open_experts(sums, static_cast<std::size_t>(groups), static_cast<std::size_t>(kept));
      take_largest(sums, open,
                   {selected.data<std::int32_t>() + t * k, static_cast<std::size_t>(k)});
    }
  });
  return selected;
}

}  // namespace moegrad
