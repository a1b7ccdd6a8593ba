// Orders of scores that floating point rounds to equal numbers: a thread a token.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "tensor/score_order.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;
using score_order::ExactSum;

// to = log(g / (1 - g)) of one token's logits x [n]. The total of the powers of all others holds
// the largest's, which is 1; the largest has its own way, for the second may be far below it.
template <class T>
__device__ void log_odds_of(const T* x, std::int64_t n, double* to) {
  std::int64_t top = 0;
  for (std::int64_t i = 1; i < n; ++i) {
    if (x[i] > x[top]) top = i;
  }
  const auto largest = static_cast<double>(x[top]);
  const auto o = [=](std::int64_t i) { return static_cast<double>(x[i]) - largest; };
  double total = 0.0;
  for (std::int64_t i = 0; i < n; ++i) total += math::exp(o(i));
  for (std::int64_t i = 0; i < n; ++i) to[i] = o(i) - math::log(total - math::exp(o(i)));

  double second = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < n; ++i) {
    if (i != top && !(o(i) <= second)) second = o(i);
  }
  const double shift = second > -700.0 ? 0.0 : second;
  double others = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    if (i != top) others += math::exp(o(i) - shift);
  }
  to[top] = -shift - (n > 1 ? math::log(others) : -std::numeric_limits<double>::infinity());
}

template <class T>
void log_odds_as(const T* x, std::int64_t tokens, std::int64_t n, double* to) {
  each("log_odds", tokens,
       [=] __device__(std::int64_t t) { log_odds_of(x + t * n, n, to + t * n); });
}

// Room for one token, and what it is ordered by.
struct Room {
  double* sums;         // [E]
  double* scores;       // [groups]
  ExactSum* exact;      // [E + groups]
  char* open;           // [E + groups]
  std::int32_t* order;  // [groups]
};

// The place of the next largest of sums [n] after `last` (-1: none yet): NaN before every number,
// the lower place first among equals.
__device__ std::int64_t next_largest(const double* sums, std::int64_t n, std::int64_t last) {
  const auto before = [=](std::int64_t a, std::int64_t b) {
    if (sums[a] > sums[b]) return true;
    if (sums[a] < sums[b]) return false;
    const bool nan_a = sums[a] != sums[a];
    const bool nan_b = sums[b] != sums[b];
    return nan_a != nan_b ? nan_a : a < b;
  };
  std::int64_t best = -1;
  for (std::int64_t i = 0; i < n; ++i) {
    if (last >= 0 && !before(last, i)) continue;
    if (best < 0 || before(i, best)) best = i;
  }
  return best;
}

template <class T>
struct TopBiased {
  Score score;
  score_order::Groups groups;
  const T* scores;
  const double* logits;
  const T* bias;
  const double* wide_bias;
  std::int64_t k;
  double rounding;  // beyond the error of a score and of its sum

  // The k of token t, the largest first.
  __device__ void select(std::int64_t t, const Room& room, std::int32_t* selected) const {
    const std::int64_t n = groups.experts;
    double largest_bias = 0.0;
    for (std::int64_t e = 0; e < n; ++e) {
      largest_bias = fmax(largest_bias, std::abs(wide_bias[e]));
      room.sums[e] = static_cast<double>(scores[t * n + e] + bias[e]);
    }
    const auto apart = [=, this](double large, double small) {
      return large - small > rounding * (fmax(std::abs(large), std::abs(small)) + largest_bias);
    };
    bool sure = true;
    std::int64_t open = n;
    if (groups.kept < groups.groups) {
      sure = keep_groups(groups, room.sums, apart, room.scores, room.open + n, room.order);
      open = groups.kept * groups.each();
    }
    std::int64_t last = -1;
    for (std::int64_t j = 0; j < k || (j == k && j < open); ++j) {
      const std::int64_t next = next_largest(room.sums, n, last);
      if (last >= 0) sure = sure && apart(room.sums[last], room.sums[next]);
      if (j < k) selected[j] = static_cast<std::int32_t>(next);
      last = next;
    }
    if (sure) return;
    const score_order::Workspace exact = {room.exact, room.exact + n, room.open, room.open + n,
                                          room.order};
    order_exactly(score, groups, logits + t * n, wide_bias, exact, k, selected);
  }
};

template <class T>
void top_biased_as(const TopBiased<T>& p, std::int64_t tokens, double* sums, ExactSum* exact,
                   char* open, std::int32_t* order, std::int32_t* selected) {
  each("top_biased", tokens, [=] __device__(std::int64_t t) {
    const std::int64_t room = p.groups.experts + p.groups.groups;
    p.select(t,
             {sums + t * room, sums + t * room + p.groups.experts, exact + t * room,
              open + t * room, order + t * p.groups.groups},
             selected + t * p.k);
  });
}

}  // namespace

void CudaKernels::log_odds(const Tensor& logits, const Tensor& t) {
  with_floating(logits.dtype(), "log_odds", [&](auto zero) {
    if (logits.numel() == 0) return;
    log_odds_as(in<decltype(zero)>(logits), logits.size(0), logits.size(1), out<double>(t));
  });
}

void CudaKernels::top_biased(Score score, const Tensor& scores, const Tensor& logits,
                             const Tensor& bias, std::int64_t groups, std::int64_t kept,
                             const Tensor& t) {
  const std::int64_t tokens = scores.size(0);
  const std::int64_t experts = scores.size(1);
  const std::int64_t room = experts + groups;
  const auto doubles = [](std::int64_t rows, std::int64_t cols) {
    return Tensor::empty({rows, cols}, DType::f64, Device::cuda);
  };
  static_assert(sizeof(ExactSum) == 3 * sizeof(double));
  const Tensor sums = doubles(tokens, room);
  const Tensor exact = doubles(tokens, 3 * room);
  const Tensor open = doubles(tokens, cuda::pieces_of(room, sizeof(double)));
  const Tensor order = Tensor::empty({tokens, groups}, DType::i32, Device::cuda);
  const Tensor o = logits.to(DType::f64);
  const Tensor b = bias.to(DType::f64);
  with_floating(scores.dtype(), "top_biased", [&](auto zero) {
    using T = decltype(zero);
    const TopBiased<T> p = {score,         {experts, groups, kept},
                            in<T>(scores), in<double>(o),
                            in<T>(bias),   in<double>(b),
                            t.size(1),     sizeof(T) == sizeof(float) ? 1e-4 : 1e-12};
    top_biased_as(p, tokens, out<double>(sums), reinterpret_cast<ExactSum*>(out<double>(exact)),
                  reinterpret_cast<char*>(out<double>(open)), out<std::int32_t>(order),
                  out<std::int32_t>(t));
  });
}

}  // namespace moegrad
