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
// The mean of w is mu/k, not the softmax of o. With an estimator that has values for the experts
// off S (ste-dense-router) the router gradient is sum_i a_i d mu_i / k, that of the paper.
//
// e_k is never formed: with r_j(i) = e_j / e_{j-1} of the experts before i, expert i is taken with
// the probability q_j(i) = sigmoid(o_i - log r_j(i)) where j are still to be taken from the experts
// up to i (q_j = 1 where all of them must be), and
//   log r_j' = log r_j + softplus(o_i - log r_j) - softplus(o_i - log r_{j-1}).
// S is drawn, and mu summed up, by a walk from the last expert to the first. Only differences of
// logits enter, so their gradients sum to zero to the last digit. About 13 operations an expert.

#include <algorithm>
#include <cmath>

#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/set_probability.h"
#include "ops/ops.h"
#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTokensPerWalk = 64;  // that are drawn together

std::vector<double> walk_of(const Tensor& logits, std::int64_t token, std::int64_t k) {
  const auto experts = static_cast<std::size_t>(logits.size(1));
  const auto row = static_cast<std::size_t>(token) * experts;
  return conditional_bernoulli_walk(logits.values<double>().subspan(row, experts), k);
}

// k of the experts by the backward walk, lowest first: i32 [N, k]. Token t takes expert i where
// number (E-1-i) N + t of the generator is below its probability.
Tensor walk_backwards(const Tensor& logits, std::int64_t k, const Rng& rng) {
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  const Tensor o = logits.to(DType::f64);
  Tensor selected = Tensor::empty({tokens, k}, DType::i32, Device::cpu);
  std::int32_t* const ids = selected.write<std::int32_t>();
  cpu::parallel_for(tokens, kTokensPerWalk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::vector<double> take = walk_of(o, t, k);
      std::int64_t left = k;
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
Tensor walk_enumerated(Tape& tape, const Tensor& logits, std::int64_t k) {
  const std::int64_t tokens = logits.size(0);
  const Tensor o = logits.to(DType::f64);
  std::vector<std::int64_t> left(static_cast<std::size_t>(tokens), k);
  Tensor selected = Tensor::empty({tokens, k}, DType::i32, Device::cpu);
  const Tensor probabilities = Tensor::empty({tokens, 2}, DType::f64, Device::cpu);
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

Tensor sample_set(Var logits, std::int64_t k) {
  Tape& tape = logits.tape();
  Decisions& decisions = tape.decisions();
  if (decisions.mode() == Decisions::Mode::enumerate && !decisions.has("selected")) {
    return walk_enumerated(tape, logits.value(), k);
  }
  return decisions.decide("selected", DType::i32, {logits.size(0), k}, [&] {
    const Tensor o = logits.value();
    return walk_backwards(o, k, tape.rng().take(static_cast<std::uint64_t>(o.numel())));
  });
}

// mu [N, E]. The k-th largest logit of each token is subtracted first: what decides is then near 0,
// in f32 too.
Var marginals(Var logits, std::int64_t k) {
  Tape& tape = logits.tape();
  const std::int64_t tokens = logits.size(0);
  const std::int64_t experts = logits.size(1);
  const auto constant = [&](double value) {
    return tape.constant(Tensor::full({tokens, 1}, value, logits.dtype(), Device::cpu));
  };
  const Var largest = take_columns(logits, top_k_indices(logits, k, "pivot"));
  const Var o = logits - stop_gradient(slice(largest, 1, k - 1, k));
  // d[i] [N, min(i, k)]: o_i - log r_j(i), j = 1 ..
  std::vector<Var> d;
  std::vector<Var> column;
  Var log_r;
  for (std::int64_t i = 0; i < experts; ++i) {
    column.push_back(slice(o, 1, i, i + 1));
    const Var oi = column.back();
    if (i == 0) {
      d.emplace_back();
      log_r = oi;
      continue;
    }
    d.push_back(oi - log_r);
    const Var s = softplus(d.back());
    const std::int64_t known = std::min(i, k);
    const std::int64_t next = std::min(i + 1, k);
    const Var either = next > known ? concat({log_r + s, oi}, 1) : log_r + s;
    if (next == 1) {
      log_r = either;
    } else {
      log_r = either - concat({constant(0.0), slice(s, 1, 0, next - 1)}, 1);
    }
  }
  // reach [N, min(i+1, k)]: the probability that j are to be taken from the experts 0 .. i.
  Var reach = constant(1.0);
  if (k > 1) {
    reach = concat(
        {tape.constant(Tensor::zeros({tokens, k - 1}, logits.dtype(), Device::cpu)), reach}, 1);
  }
  std::vector<Var> mu(static_cast<std::size_t>(experts));
  for (std::int64_t i = experts; i-- > 0;) {
    const auto at = static_cast<std::size_t>(i);
    if (i == 0) {
      mu[0] = reach;  // one left to take from one
      break;
    }
    const std::int64_t choices = std::min(i, k);  // the last of i + 1 <= k must be taken
    const Var q = sigmoid(d[at]);
    const Var free = i < k ? slice(reach, 1, 0, choices) : reach;
    Var taken = free * q;
    const Var kept = free * sigmoid(-d[at]);
    if (i < k) {
      taken = concat({taken, slice(reach, 1, i, i + 1)}, 1);
      reach = kept + slice(taken, 1, 1, i + 1);
    } else if (k > 1) {
      reach = kept + concat({slice(taken, 1, 1, k), constant(0.0)}, 1);
    } else {
      reach = kept;
    }
    mu[at] = sum(taken, 1, true);
  }
  return concat(std::span<const Var>(mu), 1);
}

class ConditionalBernoulliRouter : public Router {
 public:
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    const std::int64_t k = size.active;
    const double even = 1.0 / static_cast<double>(k);
    r.scores = marginals(r.logits, k) * even;
    if (in.training) {
      r.selected = sample_set(r.logits, k);
      const Var p = take_columns(r.scores, r.selected);
      r.weights = even + (p - stop_gradient(p));
    } else {
      r.selected = top_k_indices(r.logits, k, "selected");
      r.weights = r.logits.tape().constant(
          Tensor::full({r.logits.size(0), k}, even, r.logits.dtype(), Device::cpu));
    }
    return r;
  }
};

}  // namespace

RouterEntry conditional_bernoulli_router() {
  return {.name = "conditional-bernoulli",
          .summary = "k-subset sampling, with the gradient of the marginals",
          .source = "Ahmed et al. 2022, arXiv:2210.01941",
          .formula =
              "P(S) = prod_S e^{o_i} / e_k(e^o), o = x W + b;  mu_i = P(i in S)\n"
              "training: S drawn from P, w = 1/k in value and mu/k in gradient, on S\n"
              "inference: S = TopK(o), w = 1/k;  scores p = mu/k",
          .claim = Claim::documented,
          .traits = {.samples = true},
          .make = [](const Options&) -> std::unique_ptr<Router> {
            return std::make_unique<ConditionalBernoulliRouter>();
          },
          .recorded = {{{}, 4, 2, 0.436338176904, 0.207063329367, 0.450301587540, 0.011190966409},
                       {{}, 8, 2, 0.148658842876, 0.299800984022, 0.294970039624, 0.010356409537},
                       {{}, 8, 4, 0.429090029425, 0.130488661521, 0.345792905720, 0.005257655256}}};
}

}  // namespace moegrad
