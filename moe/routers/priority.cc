// priority: k experts sampled without replacement, each weight divided by the probability of being
// above the threshold of this very sample (priority sampling: Duffield, Lund & Thorup, J. ACM 54,
// 2007; with Gumbel noise: Kool et al., arXiv:1903.06059).
//
//   o = x W + b;  g = softmax(o);  phi_i = log g_i + G_i, G Gumbel noise
//   training    S = TopK(phi), kappa = the (k+1)-th largest phi
//               w_i = g_i / (1 - exp(-exp(log g_i - kappa))), the divisor held constant
//               k = E: there is no threshold, w = g
//   inference   S = TopK(o), w = softmax of o over S
//
// For i in S kappa is the k-th largest of the others' phi, and given those P(phi_i > kappa) = 1 -
// exp(-exp(log g_i - kappa)): E[w] = g, and the router gradient is unbiased for losses that are
// linear in y. Sum_S w is 1 in the mean only, and for k = 1 Var[w] is infinite (kappa has the tail
// e^-(k kappa), w grows as e^kappa): use k >= 2. The noise is continuous: the check integrates over
// the threshold of each S, with the density prod_S (1 - e^-e^(log g_i - kappa)) e^(m - kappa)
// e^-e^(m - kappa), m = log(1 - g_S), of S and kappa together.

#include <algorithm>
#include <cmath>
#include <limits>

#include "moe/noise.h"
#include "moe/probability/log_space.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class PriorityRouter : public Router {
 public:
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    if (!in.training) {
      select_renormalised(r, size.active);
      return r;
    }
    Tape& tape = r.logits.tape();
    const Tensor logits = r.logits.value();
    const Tensor noise = tape.decisions().decide("noise", DType::f64, logits.shape(), [&] {
      return tape.rng().gumbel(logits.shape(), DType::f64, logits.device());
    });
    const Tensor noisy = noisy_order(logits, noise);
    r.selected = tape.decisions().decide("selected", DType::i32, {logits.size(0), size.active},
                                         [&] { return largest_places(noisy, size.active); });
    r.noise = noise.to(r.logits.dtype());
    const Tensor order = noisy.to(Device::cpu);
    r.weights = constant_ratio_weights(
        r.logits, r.selected,
        [&](std::int64_t token, std::span<const double> o, std::span<const std::int32_t> selected,
            std::span<double> weights) {
          const std::size_t first = static_cast<std::size_t>(token) * o.size();
          weigh(o, order.values<double>().subspan(first, o.size()), selected, weights);
        });
    return r;
  }

 private:
  // The threshold is the largest o + G that was not selected: log g - kappa needs no softmax.
  static void weigh(std::span<const double> o, std::span<const double> noisy,
                    std::span<const std::int32_t> selected, std::span<double> weights) {
    std::vector<bool> inside(o.size(), false);
    for (const std::int32_t i : selected) inside[static_cast<std::size_t>(i)] = true;
    double threshold = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < o.size(); ++i) {
      if (!inside[i]) threshold = std::fmax(threshold, noisy[i]);
    }
    const double total = log_sum_exp(o);
    for (std::size_t a = 0; a < weights.size(); ++a) {
      const double logit = o[static_cast<std::size_t>(selected[a])];
      weights[a] = std::exp(logit - total - log1mexp(logit - threshold));
    }
  }
};

// All sets of k, and for each the trapezoidal rule over u = -kappa, where the density is
// log-concave (moe/probability/sets.cc).
std::vector<NoiseNode> priority_noise(const std::vector<double>& logits, std::int64_t k) {
  const std::size_t experts = logits.size();
  std::vector<NoiseNode> nodes;
  for (std::uint32_t set = 1; set < (1U << experts); ++set) {
    std::vector<double> inside;
    std::vector<double> outside;
    for (std::size_t i = 0; i < experts; ++i) {
      (((set >> i) & 1U) != 0 ? inside : outside).push_back(logits[i]);
    }
    if (static_cast<std::int64_t>(inside.size()) != k) continue;
    const double rest = log_sum_exp(outside);
    const double step = 0.125;
    for (double u = -44.0; u < std::log(static_cast<double>(k) + 1.0) + 4.1; u += step) {
      // kappa on the scale of the logits: of the largest o + G outside.
      const double kappa = rest - u;
      double log_density = u - std::exp(u);
      for (const double o : inside) log_density += log1mexp(o - kappa);
      const double probability = step * std::exp(log_density);
      if (probability < 1e-30) continue;
      const Tensor noise =
          Tensor::empty({1, static_cast<std::int64_t>(experts)}, DType::f64, Device::cpu);
      bool threshold = false;  // one expert outside is at kappa, the others are below
      for (std::size_t i = 0; i < experts; ++i) {
        const bool selected = ((set >> i) & 1U) != 0;
        const double place = selected ? 1.0 : threshold ? -1.0 : 0.0;
        threshold = threshold || !selected;
        noise.write<double>()[i] = kappa + place - logits[i];
      }
      nodes.push_back({probability, {{"noise", noise}}});
    }
  }
  return nodes;
}

}  // namespace

RouterEntry priority_router() {
  return {.name = "priority",
          .summary = "k experts sampled without replacement, weights by the sample's threshold",
          .source = "Duffield, Lund & Thorup 2007; Kool et al. 2019, arXiv:1903.06059",
          .formula =
              "training: phi = log softmax(x W + b) + Gumbel noise, S = TopK(phi),\n"
              "kappa = the (k+1)-th largest phi, w_i = g_i / (1 - exp(-exp(log g_i - kappa)))\n"
              "with the divisor held constant; E[w] = g; k = E: w = g\n"
              "inference: S = TopK(x W + b), w = softmax over S",
          .claim = Claim::unbiased,
          .traits = {.samples = true, .continuous = true, .on_host = "the weights in training"},
          .make = [](const Options&) -> std::unique_ptr<Router> {
            return std::make_unique<PriorityRouter>();
          },
          .draws = {"selected", "noise"},
          .noise = priority_noise};
}

}  // namespace moegrad
