// st, reinmax, gumbel-st and gumbel-softmax: gradients for one expert D drawn from p = softmax(o),
// y = E_D. Each runs every expert; the first three leave the value alone and give the logits the
// gradient of sum_i q_i <g, E_i> for a relaxed choice q:
//
//   st             q = p (Bengio et al., arXiv:1308.3432). Exact for losses linear in y
//   reinmax        do = 2 J_r gbar - J_p gbar / 2, gbar_i = <g, E_i>, J_q v = q (v - <q, v>),
//                  r = (softmax(o/tau) + onehot_D)/2 (Liu et al., arXiv:2304.08612): Heun's rule.
//                  Exact for quadratic losses at tau = 1
//   gumbel-st      q = softmax((o + G)/tau), G the Gumbel noise whose largest o + G is at D
//                  (Jang et al., arXiv:1611.01144)
//   gumbel-softmax y = sum_i q_i E_i itself, with the exact gradient given the noise (the same, and
//                  Maddison et al., arXiv:1611.00712)
//
// Experts and x get the sparse layer's gradient, in gumbel-softmax that of the mixture. Inference
// is the sparse layer. Where D was drawn without noise, G is drawn given D (truncated Gumbel).

#include "moe/dispatch.h"
#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// q [N, E] of a routing; its value may be anything, its gradient is the estimator.
using Relaxed = std::function<Var(const Routing&)>;

class StraightThroughEstimator : public Estimator {
 public:
  StraightThroughEstimator(Relaxed relaxed, bool mixture)
      : relaxed_(std::move(relaxed)), mixture_(mixture) {}

  Combined combine(const EstimatorInput& in) const override {
    const Routing& r = in.routing;
    const std::int64_t experts = in.plan.experts;
    if (in.training() && mixture_) {
      const Plan all =
          make_plan(every_expert(in.x.size(0), experts, in.x.value().device()), experts);
      return moegrad::combine(in.experts(in.x, all), relaxed_(r), all);
    }
    if (!in.training()) return in.experts.mixture(in.x, r.weights, in.plan);
    const Var q = relaxed_(r);
    const Var weights = straight_through(r.weights, take_columns(q, r.selected));
    const Var y = in.experts.mixture(in.x, weights, in.plan);
    const Plan rest = make_plan(complement(r.selected, experts), experts);
    return in.experts.detached().straight_through_mixture(y, stop_gradient(in.x), q, rest);
  }

 private:
  Relaxed relaxed_;
  bool mixture_;
};

// The logits less their largest: at 1e4 a quotient or a sum with noise would lose digits in f32.
Var centred(const Routing& r) { return r.logits - stop_gradient(max(r.logits, 1, true)); }

Var reinmax(const Routing& r, double temperature) {
  Tape& tape = r.logits.tape();
  const Tensor one = Tensor::full(r.selected.shape(), 1.0, r.logits.dtype(), r.selected.device());
  const Var drawn = put_columns(tape.constant(one), r.selected, r.logits.size(1));
  const Var half = 0.5 * (stop_gradient(softmax(centred(r) / temperature)) + drawn);
  // J_half gbar, of the linear function half (o - <half, o>); o less itself, for a value of 0.
  const Var o = r.logits - stop_gradient(r.logits);
  const Var linear = half * (o - sum(half * o, 1, true));
  return 2.0 * linear - 0.5 * softmax(r.logits);
}

// Gumbel noise given that o + G is largest at the drawn: its maximum is Gumbel around
// logsumexp(o), and the others are Gumbel around o, truncated there: -log(e^-top + e^-u) for one u
// that is not.
Tensor conditional_noise(Tape& tape, const Tensor& logits, const Tensor& selected) {
  const Device device = logits.device();
  const Var noise = tape.constant(tape.rng().gumbel(logits.shape(), DType::f64, device));
  const Var largest = tape.constant(tape.rng().gumbel({logits.size(0), 1}, DType::f64, device));
  const Var o = less_largest(tape.constant(logits));
  const Var top = largest + logsumexp(o, 1, true);
  const Var u = o + noise;
  const Var truncated = minimum(top, u) - softplus(-abs(top - u));
  const Tensor drawn = flags_of(selected, logits.size(1));
  return (where(drawn, top, truncated) - o).value();
}

Var gumbel(const Routing& r, double temperature) {
  Tape& tape = r.logits.tape();
  Tensor noise = r.noise;
  if (!noise.defined()) {
    const Tensor logits = r.logits.value().to(DType::f64);
    noise = tape.decisions()
                .decide("conditional noise", DType::f64, logits.shape(),
                        [&] { return conditional_noise(tape, logits, r.selected); })
                .to(r.logits.dtype());
  }
  return softmax((centred(r) + tape.constant(noise)) / temperature);
}

OptionSpec temperature_option(const char* help) {
  return option::number("temperature", help).initially("1").from(1e-6, 1e6).tried({"0.6"});
}

EstimatorEntry gumbel_entry(bool mixture) {
  EstimatorEntry e;
  e.traits = {.dense = true,
              .backward_only = !mixture,
              .categorical = true,
              .by_parts = false,
              .continuous = true};
  e.options = {temperature_option("divides the noisy logits in the relaxed choice")};
  e.make = [mixture](const Options& o) -> std::unique_ptr<Estimator> {
    const double temperature = o.number("temperature");
    return std::make_unique<StraightThroughEstimator>(
        [temperature](const Routing& r) { return gumbel(r, temperature); }, mixture);
  };
  e.routers = {"categorical"};
  e.draws = {"conditional noise"};
  return e;
}

}  // namespace

EstimatorEntry st_estimator() {
  return {.name = "st",
          .summary = "one drawn expert forward, the softmax backward",
          .source = "Bengio et al. 2013, arXiv:1308.3432",
          .formula = "y = E_D; dL/dp_i = <g, E_i> for every expert. Exact for linear losses",
          .claim = Claim::biased_order,
          .traits = {.dense = true, .categorical = true, .by_parts = false, .order = 1},
          .make = [](const Options&) -> std::unique_ptr<Estimator> {
            return std::make_unique<StraightThroughEstimator>(
                [](const Routing& r) { return r.scores; }, false);
          },
          .routers = {"categorical"}};
}

EstimatorEntry reinmax_estimator() {
  return {.name = "reinmax",
          .summary = "one drawn expert forward; Heun's rule between it and the softmax backward",
          .source = "Liu et al. 2023, arXiv:2304.08612",
          .formula =
              "y = E_D; r = (softmax(o/tau) + onehot_D)/2; with gbar_i = <g, E_i>,\n"
              "dL/do = 2 J_r gbar - J_p gbar/2, J_q v = q (v - <q, v>). Exact for quadratic losses",
          .claim = Claim::biased_order,
          .traits = {.dense = true, .categorical = true, .by_parts = false, .order = 2},
          .options = {temperature_option("divides the logits in r; exact at 1 only")},
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            const double temperature = o.number("temperature");
            return std::make_unique<StraightThroughEstimator>(
                [temperature](const Routing& r) { return reinmax(r, temperature); }, false);
          },
          .routers = {"categorical"}};
}

EstimatorEntry gumbel_st_estimator() {
  EstimatorEntry e = gumbel_entry(false);
  e.name = "gumbel-st";
  e.summary = "one drawn expert forward, the relaxed sample backward";
  e.source = "Jang et al. 2016, arXiv:1611.01144";
  e.formula = "y = E_D, D = argmax(o + G); dL/dq_i = <g, E_i>, q = softmax((o + G)/tau)";
  return e;
}

EstimatorEntry gumbel_softmax_estimator() {
  EstimatorEntry e = gumbel_entry(true);
  e.name = "gumbel-softmax";
  e.summary = "the relaxed sample mixes all experts in training";
  e.source = "Jang et al. 2016, arXiv:1611.01144; Maddison et al. 2016, arXiv:1611.00712";
  e.formula = "training: y = sum_i q_i E_i, q = softmax((o + G)/tau); inference: y = E_argmax(o)";
  return e;
}

}  // namespace moegrad
