// Orders of scores that floating point rounds to equal numbers: a warp a token.
#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "tensor/score_order.h"

namespace moegrad {
namespace {

using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;
using score_order::ExactSum;

// to = log(g / (1 - g)) of a line of logits. The total of the powers of all others holds the
// largest's, which is 1; the largest has its own way, for the second may be far below it.
template <class T>
__device__ void log_odds_of(const T* x, const Line& line, const Team& team, double* to) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  const std::int64_t top = line.at(cuda::next_in_order(x, line, team, -1));
  const auto largest = static_cast<double>(x[top]);
  const auto o = [=](std::int64_t at) { return static_cast<double>(x[at]) - largest; };
  const double total =
      cuda::line_sum(line, team, [=](std::int64_t at) { return math::exp(o(at)); });
  double second = kNone;
  for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
    const std::int64_t at = line.at(j);
    if (at == top) continue;
    to[at] = o(at) - math::log(total - math::exp(o(at)));
    if (!(o(at) <= second)) second = o(at);
  }
  second = team.largest(second);
  const double shift = second > -700.0 ? 0.0 : second;
  const double others = cuda::line_sum(
      line, team, [=](std::int64_t at) { return at == top ? 0.0 : math::exp(o(at) - shift); });
  if (team.leads()) to[top] = -shift - (line.n > 1 ? math::log(others) : kNone);
}

template <class T>
void log_odds_as(const T* x, std::int64_t tokens, std::int64_t n, double* to) {
  cuda::each_line("log_odds", {tokens, n, 1}, [=] __device__(const Line& line, const Team& team) {
    log_odds_of(x, line, team, to);
  });
}

// Room for one token, and what it is ordered by.
struct Room {
  double* sums;         // [E]
  double* scores;       // [groups]
  ExactSum* exact;      // [E + groups]
  char* open;           // [E + groups]
  std::int32_t* order;  // [groups]
};

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

  // keep_groups() by a warp.
  template <class Apart>
  __device__ bool keep_best(const Room& room, const Team& team, const Apart& apart) const {
    const std::int64_t n = groups.groups;
    for (std::int64_t i = team.lane; i < n; i += team.lanes) {
      room.scores[i] = group_score(groups, room.sums, i);
    }
    __syncwarp();
    for (std::int64_t i = team.lane; i < n; i += team.lanes) {
      std::int64_t place = 0;
      for (std::int64_t j = 0; j < n; ++j) {
        if (j != i && cuda::comes_before(room.scores[j], j, room.scores[i], i)) ++place;
      }
      room.order[place] = static_cast<std::int32_t>(i);
    }
    __syncwarp();
    for (std::int64_t place = groups.kept; place < n; ++place) {
      double* const group = room.sums + room.order[place] * groups.each;
      for (std::int64_t i = team.lane; i < groups.each; i += team.lanes) {
        group[i] = -std::numeric_limits<double>::infinity();
      }
    }
    __syncwarp();
    return apart(room.scores[room.order[groups.kept - 1]], room.scores[room.order[groups.kept]]);
  }

  // The k of token t by a warp, the largest first.
  __device__ void select(std::int64_t t, const Room& room, const Team& team,
                         std::int32_t* selected) const {
    const std::int64_t n = groups.experts;
    double bound = 0.0;  // of the biases
    for (std::int64_t e = team.lane; e < n; e += team.lanes) {
      bound = fmax(bound, std::abs(wide_bias[e]));
      room.sums[e] = static_cast<double>(scores[t * n + e] + bias[e]);
    }
    __syncwarp();
    const double largest_bias = team.largest(bound);
    const auto apart = [=, this](double large, double small) {
      return large - small > rounding * (fmax(std::abs(large), std::abs(small)) + largest_bias);
    };
    bool sure = true;
    std::int64_t open = n;
    if (groups.kept < groups.groups) {
      sure = keep_best(room, team, apart);
      open = groups.kept * groups.each;
    }
    const Line line = {t, 0, 1, n};
    std::int64_t last = -1;
    for (std::int64_t j = 0; j < k || (j == k && j < open); ++j) {
      const std::int64_t next = cuda::next_in_order(room.sums, line, team, last);
      if (last >= 0) sure = sure && apart(room.sums[last], room.sums[next]);
      if (j < k && team.leads()) selected[j] = static_cast<std::int32_t>(next);
      last = next;
    }
    if (sure || !team.leads()) return;
    const score_order::Workspace exact = {room.exact, room.exact + n, room.open, room.open + n,
                                          room.order};
    order_exactly(score, groups, logits + t * n, wide_bias, exact, k, selected);
  }
};

template <class T>
void top_biased_as(const TopBiased<T>& p, std::int64_t tokens, double* sums, ExactSum* exact,
                   char* open, std::int32_t* order, std::int32_t* selected) {
  cuda::each_warp("top_biased", tokens, [=] __device__(std::int64_t t, unsigned lane) {
    const std::int64_t room = p.groups.experts + p.groups.groups;
    p.select(t,
             {sums + t * room, sums + t * room + p.groups.experts, exact + t * room,
              open + t * room, order + t * p.groups.groups},
             {lane, cuda::kWarp}, selected + t * p.k);
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
