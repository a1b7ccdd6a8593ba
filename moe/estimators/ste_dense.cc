// ste-dense and ste-dense-router: sparse forward, straight-through dense backward. The upper bound
// of dense backpropagation (Panda et al., ICLR 2025 submission); the router-only form is known as
// DenseMixer.
//
//   router     gbar_i = c_i <g, E_i(x)> for all E experts
//   experts    ste-dense: every expert off R gets p_i g; ste-dense-router: none
//
// Experts off R run when g arrives (Experts::dense_backward_mixture, straight_through_mixture).
//
// `cotangent`     plain: c = 1; weighted: c_i = p_i + 1[i in R]
// `renormalised`  for weights p/S renormalised over R, with ybar = sum_R (p_i/S) gbar_i:
//                 partscale  dL/dp_i = (gbar_i - ybar)/S on R, gbar_i/S off R
//                 gated      (gbar_i - ybar)/S everywhere
//                 conventional  (gbar_i - ybar)/S on R, 0 off R

#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class SteDenseEstimator : public Estimator {
 public:
  SteDenseEstimator(bool experts, const Options& options)
      : experts_(experts),
        weighted_(options.choice("cotangent") == "weighted"),
        renormalised_(options.choice("renormalised")) {}

  bool weights_alone(bool renormalised) const override {
    return renormalised && renormalised_ == "conventional";
  }

  Combined combine(const EstimatorInput& in) const override {
    const Routing& r = in.routing;
    if (!in.training()) return in.experts.mixture(in.x, r.weights, in.plan);
    const Tensor ids = complement(r.selected, in.plan.experts);
    const Plan rest = make_plan(ids, in.plan.experts);
    const auto [on, off] = coefficients(r);
    const Var weights = scaled_gradient(r.weights, on);
    const Var p = scaled_gradient(scores_off(r), off);  // [N, E], read off R alone
    const auto less_mean = [&](Var y) {
      return gated(r) ? minus_mean(y, take_columns(p, ids)) : y;
    };
    if (experts_) {
      return less_mean(in.experts.dense_backward_mixture(in.x, weights, in.plan, p, rest));
    }
    const Var y = less_mean(in.experts.mixture(in.x, weights, in.plan));
    return in.experts.detached().straight_through_mixture(y, stop_gradient(in.x), p, rest);
  }

 private:
  bool gated(const Routing& r) const {
    return r.log_normaliser.defined() && renormalised_ == "gated";
  }

  // y, with <g, y> less for the gradient of each of the p.
  static Var minus_mean(Var y, Var p) {
    return straight_through(y, y - sum(p, 1, true) * stop_gradient(y));
  }

  // What the gradients of weights [N, k] and scores [N, E] are multiplied by; undefined: 1.
  // Detached: numbers of this point, frozen under replay.
  std::pair<Tensor, Tensor> coefficients(const Routing& r) const {
    Tensor on, off;
    if (weighted_) {
      const Var p = stop_gradient(r.scores);
      off = p.value();
      on = (take_columns(p, r.selected) + 1.0).value();
    }
    if (r.log_normaliser.defined() && renormalised_ == "conventional") {
      const Tensor p = r.scores.value();
      off = Tensor::zeros(p.shape(), p.dtype(), p.device());
    }
    return {on, off};
  }

  bool experts_;
  bool weighted_;
  std::string renormalised_;
};

std::vector<OptionSpec> dense_options() {
  return {option::choice("cotangent", {"plain", "weighted"},
                         "router cotangent: <g, E_i>, or (p_i + 1[i selected]) <g, E_i>"),
          option::choice("renormalised", {"partscale", "gated", "conventional"},
                         "how renormalised weights pass their gradient to unselected experts")};
}

}  // namespace

EstimatorEntry ste_dense_router_estimator() {
  return {.name = "ste-dense-router",
          .summary = "sparse forward; the router gets the dense layer's gradient",
          .source = "DenseMixer; Panda et al., ICLR 2025 submission",
          .formula =
              "V_i = E_i(x) on and off R: dL/dp_i = <g, E_i> for every expert;\n"
              "experts and x get the sparse layer's gradient",
          .traits = {.dense = true},
          .options = dense_options(),
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            return std::make_unique<SteDenseEstimator>(false, o);
          }};
}

EstimatorEntry ste_dense_estimator() {
  return {.name = "ste-dense",
          .summary = "sparse forward; router and experts get the dense layer's gradient",
          .source = "Panda et al., ICLR 2025 submission",
          .formula = "V_i = E_i(x) on and off R: dL/dp_i = <g, E_i>, and every expert gets p_i g",
          .traits = {.dense = true},
          .options = dense_options(),
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            return std::make_unique<SteDenseEstimator>(true, o);
          }};
}

}  // namespace moegrad
