// Orders of scores that floating point rounds to equal numbers.

#include "tensor/score_order.h"

#include <algorithm>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {
namespace {

using score_order::ExactSum;

constexpr std::int64_t kTokensPerOrder = 64;  // that are ordered together

// log(g / (1 - g)) of the largest logit, o[top] = 0: of the others alone, of which `e` are the
// powers.
double log_odds_of_largest(const double* o, const double* e, std::int64_t n, std::int64_t top) {
  double second = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < n; ++i) {
    if (i != top) second = std::fmax(second, o[i]);
  }
  double sum = 0.0;  // of the others beside the second, which may be far below the largest
  if (second > -700.0) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (i != top) sum += e[i];
    }
    second = 0.0;
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      if (i != top) sum += std::exp(o[i] - second);
    }
  }
  return -second - (n > 1 ? std::log(sum) : 0.0);
}

// Arrays for the tokens of one piece.
struct OrderRoom {
  explicit OrderRoom(const score_order::Groups& g)
      : sums(static_cast<std::size_t>(g.experts + g.groups)),
        open(static_cast<std::size_t>(g.experts + g.groups)),
        order(static_cast<std::size_t>(g.groups)),
        scores(static_cast<std::size_t>(g.groups)),
        exact{sums.data(), sums.data() + g.experts, open.data(), open.data() + g.experts,
              order.data()} {}

  PoolVector<ExactSum> sums;
  PoolVector<char> open;
  PoolVector<std::int32_t> order;
  PoolVector<double> scores;
  score_order::Workspace exact;
};

}  // namespace

void CpuKernels::log_odds(const Tensor& logits, const Tensor& out) {
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  if (logits.numel() == 0) return;
  const Layout whole{experts, 1};
  const Layout column{1, 0};
  const AxisView rows{tokens, experts, 1};
  const Tensor wide = logits.to(DType::f64);
  const Tensor per_token = wide.like({tokens, 1});
  const Tensor o = wide.like();
  reduce(Reduction::max, wide, rows, per_token);
  binary(BinaryFunctors::index_of<functor::Sub>(), tokens, experts, wide, whole, per_token, column,
         o);
  const Tensor e = wide.like();
  unary(UnaryFunctors::index_of<functor::Exp>(), {}, o, e);
  // Of all but the largest: the others hold it, at least 1 of the total is theirs.
  reduce(Reduction::sum, e, rows, per_token);
  const Tensor others = wide.like();
  binary(BinaryFunctors::index_of<functor::Sub>(), tokens, experts, per_token, column, e, whole,
         others);
  const Tensor log_others = wide.like();
  unary(UnaryFunctors::index_of<functor::Log>(), {}, others, log_others);
  binary(BinaryFunctors::index_of<functor::Sub>(), tokens, experts, o, whole, log_others, whole,
         out);
  const double* const from = o.data<double>();
  const double* const powers = e.data<double>();
  double* const to = out.write<double>();
  cpu::parallel_for(tokens, kTokensPerOrder, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const double* const row = from + t * experts;
      const std::int64_t top = std::max_element(row, row + experts) - row;
      to[t * experts + top] = log_odds_of_largest(row, powers + t * experts, experts, top);
    }
  });
}

void CpuKernels::top_biased(Score score, const Tensor& scores, const Tensor& logits,
                            const Tensor& bias, std::int64_t groups, std::int64_t kept,
                            const Tensor& out) {
  const std::int64_t tokens = scores.size(0);
  const std::int64_t experts = scores.size(1);
  const std::int64_t k = out.size(1);
  const score_order::Groups g{experts, groups, kept};
  // Beyond the error of a score and of its sum, far as the logits of a softmax may be apart.
  const double rounding = scores.dtype() == DType::f32 ? 1e-4 : 1e-12;
  const Tensor rounded = scores.like();
  binary(BinaryFunctors::index_of<functor::Add>(), tokens, experts, scores, {experts, 1}, bias,
         {0, 1}, rounded);
  const Tensor sums = rounded.to(DType::f64);
  const Tensor b = bias.to(DType::f64);
  double largest_bias = 0.0;
  for (const double x : b.values<double>()) largest_bias = std::fmax(largest_bias, std::abs(x));
  const auto apart = [=](double large, double small) {
    return large - small > rounding * (std::fmax(std::abs(large), std::abs(small)) + largest_bias);
  };

  PoolVector<char> clear(static_cast<std::size_t>(tokens), 1);
  if (kept < groups) {
    double* const all = sums.write<double>();
    cpu::parallel_for(tokens, kTokensPerOrder, [&](std::int64_t begin, std::int64_t end) {
      OrderRoom room(g);
      for (std::int64_t t = begin; t < end; ++t) {
        const bool ok = keep_groups(g, all + t * experts, apart, room.scores.data(),
                                    room.exact.closed, room.exact.order);
        clear[static_cast<std::size_t>(t)] = ok ? 1 : 0;
      }
    });
  }
  const std::int64_t more = std::min(k + 1, kept < groups ? kept * g.each : experts);
  const Tensor best = out.like({tokens, more});
  top_k(sums, more, best);
  const Tensor o = logits.to(DType::f64);
  const std::int32_t* const places = best.data<std::int32_t>();
  const double* const sum_of = sums.data<double>();
  const double* const logit_of = o.data<double>();
  const double* const bias_of = b.data<double>();
  std::int32_t* const selected = out.write<std::int32_t>();
  cpu::parallel_for(tokens, kTokensPerOrder, [&](std::int64_t begin, std::int64_t end) {
    OrderRoom room(g);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int32_t* const ids = places + t * more;
      const double* const sum = sum_of + t * experts;
      bool sure = clear[static_cast<std::size_t>(t)] != 0;
      for (std::int64_t j = 0; j + 1 < more && sure; ++j) {
        sure = apart(sum[ids[j]], sum[ids[j + 1]]);
      }
      if (sure) {
        std::copy_n(ids, k, selected + t * k);
      } else {
        order_exactly(score, g, logit_of + t * experts, bias_of, room.exact, k, selected + t * k);
      }
    }
  });
}

}  // namespace moegrad
