// horvitz-thompson: k experts sampled without replacement, each weight divided by the probability
// of being in the sample (Horvitz & Thompson, J. Am. Stat. Assoc. 47, 1952).
//
//   o = x W + b;  g = softmax(o)
//   training    S = k experts sampled without replacement from g (Gumbel top-k)
//               pi_i = P(i in S) under this sampling (moe/probability/inclusion.h)
//               w_i = g_i / pi_i, pi held constant
//   inference   S = TopK(o), w = softmax of o over S
//
// E[w] = g, and the router gradient is unbiased for losses that are linear in y. Sum_S w is 1 in
// the mean only. pi is that of sequential sampling, not the conditional Bernoulli marginal of the
// same logits. It is exact in closed form for k <= 2 and by a recursion over subsets for up to 10
// experts, and by an integral with about 14 digits above, which takes E k sqrt(k) times some 100
// steps for each token. At inference the weights sum to 1, as they do in the mean.

#include <cmath>

#include "moe/probability/inclusion.h"
#include "moe/probability/log_space.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class HorvitzThompsonRouter : public Router {
 public:
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
        [](std::int64_t, std::span<const double> logits, std::span<const std::int32_t> selected,
           std::span<double> weights) {
          const std::vector<double> log_pi =
              log_inclusion(logits, static_cast<std::int64_t>(selected.size()));
          const double total = log_sum_exp(logits);
          for (std::size_t a = 0; a < weights.size(); ++a) {
            const auto i = static_cast<std::size_t>(selected[a]);
            weights[a] = std::exp(logits[i] - total - log_pi[i]);
          }
        });
    return r;
  }
};

}  // namespace

RouterEntry horvitz_thompson_router() {
  return {.name = "horvitz-thompson",
          .summary = "k experts sampled without replacement, weights g / inclusion probability",
          .source = "Horvitz & Thompson 1952",
          .formula =
              "training: S = k experts sampled without replacement from g = softmax(x W + b),\n"
              "w_i = g_i / pi_i, pi_i = P(i in S) held constant; E[w] = g\n"
              "inference: S = TopK(x W + b), w = softmax over S",
          .claim = Claim::unbiased,
          .traits = {.samples = true, .on_host = "the weights in training"},
          .make = [](const Options&) -> std::unique_ptr<Router> {
            return std::make_unique<HorvitzThompsonRouter>();
          }};
}

}  // namespace moegrad
