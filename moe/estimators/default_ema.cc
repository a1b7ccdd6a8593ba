// default-ema: running means of the experts' outputs stand for the unselected experts ("Default
// MoE", Panda et al., NeurIPS 2025, arXiv:2504.12463).
//
//   mean_i <- beta mean_i + (1 - beta) (mean over its routed tokens of E_i(x))   in training,
//             updated before use; initially 0; an expert without tokens keeps its mean
//   y       = sum_R w_i E_i(x) + sum_{off R} p_i mean_i     (`forward`; else the sparse sum)
//   router  <g, E_i(x)> on R, <g, mean_i> off R; p is the full softmax, never renormalised
//   experts, x: the sparse layer's; nothing passes the means
//
// `weighted`: the mean over the tokens is weighted by p_i(x), detached. With `forward` inference
// adds the stored means too, and in training a token sees the others of its batch through them.
// The published beta: 0.9 for E = 8 and k in {1, 2}; 0.65, 0.95, 0.999 for E = 32 and k = 1, 2, 4.

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

constexpr const char* kMean = "estimator.mean";

class DefaultEmaEstimator : public Estimator {
 public:
  explicit DefaultEmaEstimator(const Options& o)
      : beta_(o.number("beta")), weighted_(o.flag("weighted")), forward_(o.flag("forward")) {}

  void declare(const LayerSize& size, std::string_view prefix,
               Parameters& parameters) const override {
    parameters.add(std::string(prefix) + kMean,
                   Tensor::zeros({size.experts, size.output}, DType::f64, Device::cpu), false);
  }
  bool leaks() const override { return forward_; }

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    const Routing& r = in.routing;
    const bool use_fused = fused(in.x.tape());
    const auto sparse = [&] {
      return use_fused ? moegrad::combine(h, r.weights, in.plan)
                       : written_sparse(h, r.weights, in.plan);
    };
    if (!in.training() && !forward_) return sparse();
    const Tensor stored = in.layer.weights.at(kMean).value();
    if (stored.size(0) != in.plan.experts) {
      fail("default-ema",
           "there are {} running means and {} experts. Use a router that does not merge experts.",
           stored.size(0), in.plan.experts);
    }
    const Tensor means = in.training() ? updated(in, h, stored) : stored;
    const Var values = in.x.tape().constant(means.to(h.dtype()));
    const Updates updates = in.training() ? Updates{{kMean, means}} : Updates{};
    return {use_fused ? sparse() + product(r, values) : written(r, h, in.plan, values), updates};
  }

 private:
  // From frozen numbers: the means carry no gradient.
  Tensor updated(const EstimatorInput& in, Var h, const Tensor& stored) const {
    const Plan& plan = in.plan;
    Tensor rows = stop_gradient(h).value();
    Tensor weight = Tensor::full({plan.slots(), 1}, 1.0, rows.dtype(), rows.device());
    if (weighted_) {
      const Tensor p = take_columns(stop_gradient(in.routing.scores).value(), in.routing.selected);
      kernels(p.device()).tokens_to_slots(p.reshape({p.numel(), 1}), {}, plan.order(), 1, weight);
      rows = compute<functor::Mul>(rows, weight);
    }
    // The sums over each expert's rows: of the weights, and of weight times row.
    const auto sums = [&](const Tensor& x) {
      const Tensor of_experts = x.like({plan.experts, x.size(1)});
      kernels(x.device()).grouped_sum(x, plan.offsets(), of_experts);
      return of_experts.to(DType::f64);
    };
    const Tensor total = sums(weight);
    const Tensor mean = stored.to(DType::f64);
    const Tensor share = compute<functor::Div>(scalar_like(total, 1.0 - beta_), total);
    const Tensor moved =
        compute<functor::Add>(compute<functor::Mul>(scalar_like(mean, beta_), mean),
                              compute<functor::Mul>(share, sums(rows)));
    const Tensor none = Tensor::zeros(mean.shape(), DType::f64, mean.device());
    return where(greater(total, none), moved, mean).to(stored.dtype());
  }

  // The definition: each unselected expert of each token reads its mean.
  Var written(const Routing& r, Var h, const Plan& plan, Var means) const {
    Unselected rest;
    rest.plan = make_plan(complement(r.selected, plan.experts), plan.experts);
    rest.scores = r.scores;
    const Tensor m = means.value();
    const Tensor zeros = Tensor::zeros({rest.plan.slots(), m.size(1)}, m.dtype(), m.device());
    rest.values = grouped_bias(means.tape().constant(zeros), means, rest.plan);
    if (!forward_) return written_surrogate(h, r.weights, plan, rest);
    return written_sparse(h, r.weights, plan) +
           moegrad::combine(rest.values, rest.scores, rest.plan);
  }

  // The same by one matrix product, (p off R, 0 on R) [N, E] times the means [E, Dout].
  Var product(const Routing& r, Var means) const {
    const Tensor on = flags_of(r.selected, r.scores.size(1));
    const Var p = where(on, constant_like(r.scores, {}, 0.0), r.scores);
    return matmul(forward_ ? p : p - stop_gradient(p), means);
  }

  double beta_;
  bool weighted_;
  bool forward_;
};

}  // namespace

EstimatorEntry default_ema_estimator() {
  return {
      .name = "default-ema",
      .summary = "running means of the experts' outputs stand for the unselected experts",
      .source = "Panda et al. 2025 (Default MoE), arXiv:2504.12463",
      .formula =
          "mean_i <- beta mean_i + (1 - beta) (mean of E_i over its tokens), before use;\n"
          "y = sum_R w_i E_i + sum_{off R} p_i mean_i; dL/dp_i = <g, mean_i> off R",
      .traits = {.backward_only = false,
                 .state = "running means of the experts' outputs (estimator.mean)"},
      .options = {option::number("beta", "how much of the running mean is kept at each step")
                      .initially("0.9")
                      .from(0.0, 1.0)
                      .tried({"0", "0.5"}),
                  option::flag("weighted", "mean over the tokens weighted by the expert's score"),
                  option::flag("forward", "add sum p_i mean_i over the unselected to the output")
                      .initially("true")},
      .make = [](const Options& o) -> std::unique_ptr<Estimator> {
        return std::make_unique<DefaultEmaEstimator>(o);
      }};
}

}  // namespace moegrad
