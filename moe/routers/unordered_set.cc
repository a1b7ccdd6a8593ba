// unordered-set: k experts sampled without replacement, with weights that are the softmax in the
// mean (the unordered set estimator of Kool et al., arXiv:2002.06043, applied to a mixture layer).
//
//   o = x W + b;  g = softmax(o)
//   training    S = k experts sampled without replacement from g
//               R(S, i) = P^{without i}(S \ i) / P(S), the P of unordered sets
//               (moe/probability/sets.h)
//               w_i = g_i R(S, i) = P(i was drawn first | S), R held constant
//               k = 1: w = 1;  k = 2: w_i = (1-g_l) / ((1-g_i) + (1-g_l))
//   inference   S = TopK(o), w = softmax of o over S
//
// Sum_S w = 1 identically and E[w] = g. The router gradient
//   g_q ([q in S] R_q a_q - sum_S R_i g_i a_i)
// is unbiased for losses that are linear in y, k = 1 included, where it is that of the score
// function. At inference the weights sum to 1 as in training.
//
// P(S) is computed from the sum of the others, so that nothing is lost where S holds nearly all of
// the score. `guard` > 0 sets R = 1 where sum_S g > 1 - guard, as code that subtracts must (1e-5 is
// usual); the weights are then biased by up to guard. k = E: R = 1.

#include <cmath>

#include "moe/probability/log_space.h"
#include "moe/probability/sets.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class UnorderedSetRouter : public Router {
 public:
  explicit UnorderedSetRouter(double guard) : guard_(guard) {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    if (!in.training) {
      select_renormalised(r, size.active);
      return r;
    }
    r.selected = sample_experts(r.logits, size.active, false);
    r.weights = constant_ratio_weights(
        r.logits, r.selected,
        [this](std::int64_t, std::span<const double> logits, std::span<const std::int32_t> selected,
               std::span<double> weights) {
          const SetProbability p = set_probability(logits, selected);
          const bool guarded = guard_ > 0.0 && score_outside(logits, selected) < guard_;
          const double total = log_sum_exp(logits);
          for (std::size_t a = 0; a < weights.size(); ++a) {
            const double o = logits[static_cast<std::size_t>(selected[a])];
            weights[a] = guarded ? std::exp(o - total) : p.first[a];
          }
        });
    return r;
  }

 private:
  static double score_outside(std::span<const double> logits,
                              std::span<const std::int32_t> selected) {
    std::vector<bool> inside(logits.size(), false);
    for (const std::int32_t i : selected) inside[static_cast<std::size_t>(i)] = true;
    const double total = log_sum_exp(logits);
    double sum = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (!inside[i]) sum += std::exp(logits[i] - total);
    }
    return sum;
  }

  double guard_;
};

}  // namespace

RouterEntry unordered_set_router() {
  return {.name = "unordered-set",
          .summary = "k experts sampled without replacement, weights unbiased and summing to 1",
          .source = "after Kool et al. 2020, arXiv:2002.06043",
          .formula =
              "training: S = k experts sampled without replacement from g = softmax(x W + b),\n"
              "w_i = g_i R(S, i), R = P^{without i}(S \\ i) / P(S) held constant:\n"
              "w_i = P(i was drawn first | S); sum_S w = 1, E[w] = g\n"
              "inference: S = TopK(x W + b), w = softmax over S",
          .claim = Claim::unbiased,
          .traits = {.samples = true, .on_host = "the weights in training"},
          .options = {option::number(
                          "guard", "R = 1 where the selected hold more than 1 - guard of the score")
                          .initially("0")
                          .from(0.0, 1.0)
                          .tried({"1e-5"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<UnorderedSetRouter>(o.number("guard"));
          }};
}

}  // namespace moegrad
