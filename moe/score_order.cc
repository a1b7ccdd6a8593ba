#include "moe/score_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "moe/noise.h"
#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

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

// Of each token's sums [N, E] those outside of its `kept` best groups become -infinity; `clear` is
// 0 where the groups are not `apart`.
template <class Apart>
void keep_groups(const Tensor& sums, std::int64_t groups, std::int64_t kept, const Apart& apart,
                 std::vector<char>& clear) {
  const std::int64_t each = sums.size(1) / groups;
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  std::vector<double> scores(static_cast<std::size_t>(groups));
  std::vector<std::int32_t> order(scores.size());
  for (std::int64_t t = 0; t < sums.size(0); ++t) {
    double* const row = sums.write<double>() + t * sums.size(1);
    for (std::size_t g = 0; g < scores.size(); ++g) {
      double first = kNone;
      double second = kNone;
      const double* const group = row + static_cast<std::int64_t>(g) * each;
      for (std::int64_t i = 0; i < each; ++i) {
        second = std::fmax(second, std::fmin(first, group[i]));
        first = std::fmax(first, group[i]);
      }
      scores[g] = each > 1 ? first + second : first;
      order[g] = static_cast<std::int32_t>(g);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    const auto score_at = [&](std::int64_t place) {
      return scores[static_cast<std::size_t>(order[static_cast<std::size_t>(place)])];
    };
    if (!apart(score_at(kept - 1), score_at(kept))) clear[static_cast<std::size_t>(t)] = 0;
    for (std::int64_t place = kept; place < groups; ++place) {
      std::fill_n(row + order[static_cast<std::size_t>(place)] * each, each, kNone);
    }
  }
}

// One token, to 32 digits.
void order_exactly(Score score, std::span<const double> o, std::span<const double> b,
                   std::size_t groups, std::size_t kept, std::span<std::int32_t> out) {
  double log_total = 0.0;
  if (score == Score::softmax) {
    const double top = o[largest_of(o)];
    for (const double x : o) log_total += std::exp(x - top);
    log_total = top + std::log(log_total);
  }
  std::vector<ExactSum> sums;
  for (std::size_t i = 0; i < o.size(); ++i) {
    if (score == Score::sigmoid) {
      sums.push_back(of_sigmoid(o[i], b[i]));
    } else {
      sums.push_back(two_sum(b[i], std::exp(o[i] - log_total)));
      sums.back().logit = o[i];
    }
  }
  std::vector<char> open = open_experts(sums, groups, kept);
  take_largest(sums, open, out);
}

}  // namespace

Tensor log_odds(const Tensor& logits) {
  Kernels& k = kernels(Device::cpu);
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  const Tensor o = less_largest(logits.to(DType::f64));
  const Tensor e = Tensor::empty(o.shape(), DType::f64, Device::cpu);
  k.unary(UnaryFunctors::index_of<functor::Exp>(), {}, o, e);
  // Of all but the largest: the others hold it, at least 1 of the total is theirs.
  const Tensor total = Tensor::empty({tokens, 1}, DType::f64, Device::cpu);
  k.reduce(Reduction::sum, e, {tokens, experts, 1}, total);
  const Tensor others = Tensor::empty(o.shape(), DType::f64, Device::cpu);
  k.binary(BinaryFunctors::index_of<functor::Sub>(), tokens, experts, total, {1, 0}, e,
           {experts, 1}, others);
  const Tensor log_others = Tensor::empty(o.shape(), DType::f64, Device::cpu);
  k.unary(UnaryFunctors::index_of<functor::Log>(), {}, others, log_others);
  Tensor odds = Tensor::empty(o.shape(), DType::f64, Device::cpu);
  k.binary(BinaryFunctors::index_of<functor::Sub>(), tokens, experts, o, {experts, 1}, log_others,
           {experts, 1}, odds);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::span<const double> row(o.data<double>() + t * experts,
                                      static_cast<std::size_t>(experts));
    const std::size_t top = largest_of(row);
    double second = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i != top) second = std::fmax(second, row[i]);
    }
    double sum = 0.0;  // of the others beside the second, which may be far below the largest
    if (second > -700.0) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i != top) sum += e.data<double>()[t * experts + static_cast<std::int64_t>(i)];
      }
      second = 0.0;
    } else {
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i != top) sum += std::exp(row[i] - second);
      }
    }
    odds.write<double>()[t * experts + static_cast<std::int64_t>(top)] =
        -second - (experts > 1 ? std::log(sum) : 0.0);
  }
  return odds;
}

Tensor top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t k, std::int64_t groups, std::int64_t kept) {
  const std::int64_t tokens = scores.size(0);
  const std::int64_t experts = scores.size(1);
  const std::int64_t each = experts / groups;
  const bool f32 = scores.dtype() == DType::f32;
  // Beyond the error of a score and of its sum, far as the logits of a softmax may be apart.
  const double rounding = f32 ? 1e-4 : 1e-12;
  Kernels& kernel = kernels(Device::cpu);
  Tensor sums = Tensor::empty(scores.shape(), scores.dtype(), Device::cpu);
  kernel.binary(BinaryFunctors::index_of<functor::Add>(), tokens, experts, scores, {experts, 1},
                bias, {0, 1}, sums);
  sums = sums.to(DType::f64);
  const Tensor b = bias.to(DType::f64);
  double largest_bias = 0.0;
  for (const double x : b.values<double>()) largest_bias = std::fmax(largest_bias, std::abs(x));
  const auto apart = [&](double large, double small) {
    return large - small > rounding * (std::fmax(std::abs(large), std::abs(small)) + largest_bias);
  };

  std::vector<char> clear(static_cast<std::size_t>(tokens), 1);
  if (kept < groups) keep_groups(sums, groups, kept, apart, clear);
  const std::int64_t more = std::min(k + 1, kept < groups ? kept * each : experts);
  const Tensor best = Tensor::empty({tokens, more}, DType::i32, Device::cpu);
  kernel.top_k(sums, more, best);
  Tensor selected = Tensor::empty({tokens, k}, DType::i32, Device::cpu);
  const Tensor o = logits.to(DType::f64);
  cpu::parallel_for(tokens, kTokensPerOrder, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int32_t* const ids = best.data<std::int32_t>() + t * more;
      const double* const sum = sums.data<double>() + t * experts;
      bool sure = clear[static_cast<std::size_t>(t)] != 0;
      for (std::int64_t j = 0; j + 1 < more && sure; ++j)
        sure = apart(sum[ids[j]], sum[ids[j + 1]]);
      const auto width = static_cast<std::size_t>(experts);
      const std::span<std::int32_t> out(selected.write<std::int32_t>() + t * k,
                                        static_cast<std::size_t>(k));
      if (sure) {
        std::copy_n(ids, k, out.begin());
      } else {
        order_exactly(score, {o.data<double>() + t * experts, width}, b.values<double>(),
                      static_cast<std::size_t>(groups), static_cast<std::size_t>(kept), out);
      }
    }
  });
  return selected;
}

}  // namespace moegrad
