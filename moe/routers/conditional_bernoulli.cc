// conditional-bernoulli: k-subset sampling with the gradient of the marginals (SIMPLE: Ahmed, Zeng,
// Niepert & Van den Broeck, ICLR 2023, arXiv:2210.01941).
//
//   o = x W + b;  P(S) = prod_S e^{o_i} / e_k(e^o) over the sets of k experts
//   mu_i = P(i in S) = d log e_k / d o_i
//   training    S drawn from P, z its indicator;  w_i = z_i / k in value, mu_i / k in gradient:
//               w = sg(1/k - mu/k) + mu/k on S
//   inference   S = TopK(o), the most probable set;  w = 1/k
//   scores      p = mu / k, in both
//
// variant=probmoe (arXiv:2606.01509): w = (sg(z - mu) + mu) pi, pi = softmax(o)
//   training    w_i = pi_i on S in value, with the gradient dpi_i + pi_i dmu_i
//   inference   S = TopK(o), w = pi on S, not renormalised
//   scores      p = pi, in both
// The paper draws from independent Bernoulli variables of sigmoid(o_i), given that k of them are 1:
// their odds are e^{o_i}, and P is the same. Its code stops the gradient of the logarithms of
// 1 - sigmoid(o_i), which multiplies dmu/do_i by 1 - sigmoid(o_i); here nothing is stopped.
// With least=l the variables are given that l to k of them are 1: a token runs |S| experts,
//   P(|S| = j) = e_j / (e_l + .. + e_k), and given that P(S) as above;  mu_i = P(i in S)
//   inference   S = the most probable set: the l largest o, and those up to the k-th that are
//               above 0 (the paper's inference has one k)
//
// The mean of w is mu/k (probmoe: mu pi), not the softmax of o. With an estimator that has values
// for the experts off S (ste-dense-router) SIMPLE's router gradient is sum_i a_i d mu_i / k, that
// of the paper.
//
// Of a fixed size no e_k is formed: with r_j(i) = e_j / e_{j-1} of the experts before i, expert i is taken with
// the probability q_j(i) = sigmoid(o_i - log r_j(i)) where j are still to be taken from the experts
// up to i (q_j = 1 where all of them must be), and
//   log r_j' = log r_j + softplus(o_i - log r_j) - softplus(o_i - log r_{j-1}).
// S is drawn, and mu summed up, by a walk from the last expert to the first. Of a fixed size only
// differences of logits enter, so their gradients sum to zero to the last digit; of a drawn one
// their level does too. About 13 operations an expert.

#include "moe/probability/conditional_bernoulli.h"

#include <algorithm>
#include <cmath>

#include "moe/on_host.h"
#include "moe/probability/log_space.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/threads.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTokensPerWalk = 64;  // that are drawn together

std::vector<double> walk_of(const Tensor& logits, std::int64_t token, std::int64_t k) {
  const auto experts = static_cast<std::size_t>(logits.size(1));
  const auto row = static_cast<std::size_t>(token) * experts;
  return conditional_bernoulli_walk(logits.values<double>().subspan(row, experts), k);
}

// How many experts a token may run.
struct Range {
  std::int64_t least, most;
  bool one() const { return least == most; }
};

// P(|S| = j), j = least .. most, of a token.
std::vector<double> sizes_of(const Tensor& logits, std::int64_t token, const Range& range) {
  const auto experts = static_cast<std::size_t>(logits.size(1));
  const auto row = static_cast<std::size_t>(token) * experts;
  const std::vector<double> log_e =
      log_elementary_symmetric(logits.values<double>().subspan(row, experts), range.most);
  const std::span<const double> open =
      std::span(log_e).subspan(static_cast<std::size_t>(range.least));
  const double total = log_sum_exp(open);
  std::vector<double> p;
  for (const double log_j : open) p.push_back(std::exp(log_j - total));
  return p;
}

// The size whose interval of [0, 1) has u.
std::int64_t drawn_size(const std::vector<double>& p, double u, const Range& range) {
  std::int64_t size = range.least;
  for (std::size_t j = 0; j + 1 < p.size() && u >= p[j]; ++j, ++size) u -= p[j];
  return size;
}

// Up to `most` of the experts by the backward walk, lowest first, then -1: i32 [N, most]. Token t takes
// expert i where number (E-1-i) N + t of the generator is below its probability; where its size is drawn
// too, by number E N + t. Logits on the host.
Tensor walk_backwards(const Tensor& logits, const Range& range, const Rng& rng) {
  const std::int64_t k = range.most;
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  const Tensor o = logits.to(DType::f64);
  Tensor selected = Tensor::full({tokens, k}, -1.0, DType::i32, o.device());
  std::int32_t* const ids = selected.write<std::int32_t>();
  parallel_on_host(tokens, kTokensPerWalk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::vector<double> take = walk_of(o, t, k);
      std::int64_t left = k;
      if (!range.one()) {
        const double u = rng.uniform(static_cast<std::uint64_t>(experts * tokens + t));
        left = drawn_size(sizes_of(o, t, range), u, range);
      }
      for (std::int64_t i = experts; i-- > 0;) {
        const double u = rng.uniform(static_cast<std::uint64_t>((experts - 1 - i) * tokens + t));
        if (u < take[static_cast<std::size_t>(i * (k + 1) + left)]) {
          ids[t * k + --left] = static_cast<std::int32_t>(i);
        }
      }
    }
  });
  return selected;
}

// The same with a draw of its own for every expert, all of whose outcomes are run.
Tensor walk_enumerated(Tape& tape, const Tensor& logits, const Range& range) {
  const std::int64_t k = range.most;
  const std::int64_t tokens = logits.size(0);
  const Tensor o = logits.to(DType::f64);
  std::vector<std::int64_t> left(static_cast<std::size_t>(tokens), k);
  if (!range.one()) {
    const Tensor sizes = o.like({tokens, k - range.least + 1});
    double* p = sizes.write<double>();
    for (std::int64_t t = 0; t < tokens; ++t) p = std::ranges::copy(sizes_of(o, t, range), p).out;
    const Tensor drawn = tape.decisions().categorical("size", sizes, tape.rng());
    for (std::int64_t t = 0; t < tokens; ++t) {
      left[static_cast<std::size_t>(t)] = range.least + drawn.data<std::int32_t>()[t];
    }
  }
  Tensor selected = Tensor::full({tokens, k}, -1.0, DType::i32, o.device());
  const Tensor probabilities = o.like({tokens, 2});
  for (std::int64_t i = logits.size(1); i-- > 0;) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::int64_t open = left[static_cast<std::size_t>(t)];
      const double q = walk_of(o, t, k)[static_cast<std::size_t>(i * (k + 1) + open)];
      probabilities.write<double>()[2 * t] = 1.0 - q;
      probabilities.write<double>()[2 * t + 1] = q;
    }
    const Tensor taken = tape.decisions().categorical("draw", probabilities, tape.rng());
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::int64_t& open = left[static_cast<std::size_t>(t)];
      if (taken.data<std::int32_t>()[t] == 0) continue;
      selected.write<std::int32_t>()[t * k + --open] = static_cast<std::int32_t>(i);
    }
  }
  return selected;
}

Tensor sample_set(Var logits, const Range& range) {
  Tape& tape = logits.tape();
  Decisions& decisions = tape.decisions();
  if (decisions.mode() == Decisions::Mode::enumerate && !decisions.has("selected")) {
    return on_host([&](const Tensor& o) { return walk_enumerated(tape, o, range); },
                   logits.value());
  }
  return decisions.decide("selected", DType::i32, {logits.size(0), range.most}, [&] {
    const Tensor o = logits.value();
    const std::int64_t numbers = o.numel() + (range.one() ? 0 : o.size(0));
    const Rng rng = tape.rng().take(static_cast<std::uint64_t>(numbers));
    return on_host([&](const Tensor& host) { return walk_backwards(host, range, rng); }, o);
  });
}

Var column_of(Var like, double value) { return constant_like(like, {like.size(0), 1}, value); }

// log r_j of the experts 0 .. i, j = 1 .. min(i+1, k), from that of the experts before i and
// d_j = o_i - log r_j:  log r_j + softplus(d_j) - softplus(d_{j-1}), where softplus(d_0) = 0; and
// o_i for j = i+1, of which there was none.
Var log_ratio_with(Var log_r, Var d, Var oi, std::int64_t k) {
  const Var s = softplus(d);
  const Var raised = log_r.size(1) < k ? concat({log_r + s, oi}, 1) : log_r + s;
  const std::int64_t columns = raised.size(1);
  if (columns == 1) return raised;
  return raised - concat({column_of(s, 0.0), slice(s, 1, 0, columns - 1)}, 1);
}

// d [i] of each expert, i > 0: [N, min(i, k)]; d_j is the log of the odds to take expert i where j
// are still to be taken from the experts 0 .. i. And log r_j of all experts, j = 1 .. k.
struct Odds {
  std::vector<Var> d = std::vector<Var>(1);
  Var log_r;
};
Odds odds_to_take(Var o, std::int64_t k) {
  Odds odds;
  Var& log_r = odds.log_r = slice(o, 1, 0, 1);
  for (std::int64_t i = 1; i < o.size(1); ++i) {
    const Var oi = slice(o, 1, i, i + 1);
    odds.d.push_back(oi - log_r);
    log_r = log_ratio_with(log_r, odds.d.back(), oi, k);
  }
  return odds;
}

// Columns 1 .. count of x, with a column of zeros where x has only `count` columns.
Var next_columns(Var x, std::int64_t count) {
  if (x.size(1) > count) return slice(x, 1, 1, count + 1);
  if (count == 1) return column_of(x, 0.0);
  return concat({slice(x, 1, 1, count), column_of(x, 0.0)}, 1);
}

// P(|S| = j) [N, most], j = 1 .. most, of logits less `shift` [N, 1], that have these log r: in proportion
// to e_j, with e_j / e_least the product of r_i e^shift over least < i <= j; 0 below `least`.
Var size_probabilities(Var log_r, Var shift, const Range& range) {
  const Var ratios = slice(log_r, 1, range.least, range.most) + shift;
  const Var p = softmax(concat({column_of(ratios, 0.0), cumulative_sum(ratios, 1)}, 1));
  if (range.least == 1) return p;
  return concat({constant_like(p, {p.size(0), range.least - 1}, 0.0), p}, 1);
}

// mu [N, E], by the walk from the last expert to the first. reach_j, j = 1 .. min(i+1, k), is the
// probability that j are still to be taken from the experts 0 .. i, P(|S| = j) of all:
//   taken_j  = reach_j sigmoid(d_j); reach_j where all must be taken, j = i+1
//   mu_i     = sum_j taken_j
//   reach_j' = reach_j sigmoid(-d_j) + taken_{j+1}, of the experts 0 .. i-1
// Of each token a logit near those that decide is subtracted first, for they are near 0 then, in f32
// too: the k-th largest; of a drawn size 0, or the nearest between the least-th and the k-th largest.
Var marginals(Var logits, const Range& range) {
  const std::int64_t k = range.most;
  const std::int64_t experts = logits.size(1);
  const Var largest = take_columns(logits, top_k_indices(logits, k, "pivot"));
  Var pivot = slice(largest, 1, k - 1, k);
  if (!range.one()) pivot = minimum(relu(pivot), slice(largest, 1, range.least - 1, range.least));
  pivot = stop_gradient(pivot);
  const auto [d, log_r] = odds_to_take(logits - pivot, k);
  Var reach = range.one() ? column_of(logits, 1.0) : size_probabilities(log_r, pivot, range);
  if (range.one() && k > 1) {
    reach = concat({constant_like(logits, {logits.size(0), k - 1}, 0.0), reach}, 1);
  }
  std::vector<Var> mu(d.size());
  for (std::int64_t i = experts - 1; i > 0; --i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t choices = std::min(i, k);
    const Var open = i < k ? slice(reach, 1, 0, choices) : reach;
    Var taken = open * sigmoid(d[at]);
    if (i < k) taken = concat({taken, slice(reach, 1, i, i + 1)}, 1);
    reach = open * sigmoid(-d[at]) + next_columns(taken, choices);
    mu[at] = sum(taken, 1, true);
  }
  mu[0] = reach;  // one is to be taken from one
  return concat(std::span<const Var>(mu), 1);
}

class ConditionalBernoulliRouter : public Router {
 public:
  ConditionalBernoulliRouter(bool probmoe, std::int64_t least) : probmoe_(probmoe), least_(least) {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    const std::int64_t k = size.active;
    const Range range = {least_ > 0 ? std::min(least_, k) : k, k};
    if (probmoe_) {
      r.scores = softmax(r.logits);
      r.selected = in.training ? sample_set(r.logits, range) : most_probable(r.logits, range);
      r.weights = take_columns(r.scores, r.selected);
      if (!in.training) return r;
      const Var mu = take_columns(marginals(r.logits, range), r.selected);
      r.weights = r.weights * (1.0 + (mu - stop_gradient(mu)));
      return r;
    }
    const double even = 1.0 / static_cast<double>(k);
    r.scores = marginals(r.logits, range) * even;
    if (in.training) {
      r.selected = sample_set(r.logits, range);
      const Var p = take_columns(r.scores, r.selected);
      r.weights = even + (p - stop_gradient(p));
    } else {
      r.selected = top_k_indices(r.logits, k, "selected");
      r.weights = constant_like(r.logits, {r.logits.size(0), k}, even);
    }
    return r;
  }

 private:
  // i32 [N, most], the largest logit first, -1 behind the set.
  static Tensor most_probable(Var logits, const Range& range) {
    if (range.one()) return top_k_indices(logits, range.most, "selected");
    const Shape shape = {logits.size(0), range.most};
    return logits.tape().decisions().decide("selected", DType::i32, shape, [&] {
      const Tensor o = logits.value();
      const Tensor places = largest_places(o, range.most);
      Tensor always = Tensor::zeros(shape, DType::i32, Device::cpu);
      for (std::int64_t i = 0; i < always.numel(); ++i) {
        always.write<std::int32_t>()[i] = i % range.most < range.least ? 1 : 0;
      }
      const Tensor least = where(always.to(o.device()), places, scalar_like(places, -1.0));
      return where(greater(take_columns(o, places), scalar_like(o, 0.0)), places, least);
    });
  }

  bool probmoe_;
  std::int64_t least_;
};

}  // namespace

RouterEntry conditional_bernoulli_router() {
  return {
      .name = "conditional-bernoulli",
      .summary = "k-subset sampling, with the gradient of the marginals",
      .source = "Ahmed et al. 2022, arXiv:2210.01941; ProbMoE 2026, arXiv:2606.01509",
      .formula =
          "P(S) = prod_S e^{o_i} / e_k(e^o), o = x W + b;  mu_i = P(i in S)\n"
          "training: S drawn from P, w = 1/k in value and mu/k in gradient, on S\n"
          "inference: S = TopK(o), w = 1/k;  scores p = mu/k\n"
          "probmoe: w = softmax(o) on S, in training with the gradient of (sg(z - mu) + mu)\n"
          "softmax(o), z the indicator of S; scores softmax(o)\n"
          "least=l: sets of l to k experts, P(S) in proportion to prod_S e^{o_i}; at inference\n"
          "the l largest o, and those up to the k-th that are above 0",
      .claim = Claim::documented,
      .traits = {.samples = true, .on_host = "the draw of the sets in training"},
      .options = {option::choice("variant", {"simple", "probmoe"},
                                 "weights: 1/k with the gradient of mu/k (SIMPLE), or the "
                                 "softmax with that of mu besides (ProbMoE)"),
                  option::integer("least",
                                  "experts that a token runs at least, k at most, by ProbMoE; 0: k")
                      .initially("0")
                      .from(0.0, 1e6)},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        const bool probmoe = o.choice("variant") == "probmoe";
        const std::int64_t least = o.integer("least");
        if (least > 0 && !probmoe) {
          fail("conditional-bernoulli", "least is {} and variant simple. Use variant=probmoe.",
               least);
        }
        return std::make_unique<ConditionalBernoulliRouter>(probmoe, least);
      },
      .recorded = {{{}, 4, 2, 0.436338176904, 0.207063329367, 0.450301587540, 0.011190966409},
                   {{}, 8, 2, 0.148658842876, 0.299800984022, 0.294970039624, 0.010356409537},
                   {{}, 8, 4, 0.429090029425, 0.130488661521, 0.345792905720, 0.005257655256},
                   {{{"variant", "probmoe"}},
                    4,
                    2,
                    0.195580444385,
                    0.061957347398,
                    0.059846732547,
                    0.019112741695},
                   {{{"variant", "probmoe"}},
                    8,
                    4,
                    0.269213337294,
                    0.044712400058,
                    0.063958566213,
                    0.024123692898},
                   {{{"variant", "probmoe"}, {"least", "1"}},
                    4,
                    2,
                    0.371421478800,
                    0.142711050013,
                    0.095817939271,
                    0.041214781885}}};
}

}  // namespace moegrad
