// ste-probe: the router's dense gradient from a few drawn experts (ours; nobody was found running
// it). m experts off R of each token are drawn, and stand for all of those:
//
//   J_1 .. J_m  independently from q over the experts off R
//   router      gbar_i = <g, E_i(x)> on R; off R (1/m) sum_j [J_j = i] <g, E_i(x)>/q_i
//   experts, x  the sparse layer's
//
// In the mean over J that is ste-dense-router's gradient, at the cost of m experts for a token in
// place of E - k; the variance falls as 1/m. Weights that are renormalised over R pass p/S off it,
// as ste-dense-router's `partscale` does.
//
// `proposal`  uniform: q = 1/(E - k); scores: q = p/(1 - S), of the mass off R (a p below 1e-300
//             counts as that)
// `every`     n > 0: at each n-th step all experts off R run, as with ste-dense-router, and none is
//             drawn. With `probes` 0 the router gets the sparse gradient at the steps between.
//
// The state "estimator.phase" counts the steps since the last such one; where there is no such step
// it stays as it is. Experts that are drawn run when g arrives.

#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr const char* kPhase = "estimator.phase";
constexpr double kLeastMass = 1e-300;  // of a score, where they are drawn by
constexpr double kNotOpen = -1e30;     // of a logit: beside any other, e to it is 0

class SteProbeEstimator : public Estimator {
 public:
  explicit SteProbeEstimator(const Options& o)
      : probes_(o.integer("probes")),
        every_(o.integer("every")),
        by_score_(o.choice("proposal") == "scores") {}

  void check(const LayerSize&, const RouterEntry&) const override {
    if (probes_ > 0 || every_ > 0) return;
    fail("ste-probe",
         "probes is 0 and every is 0: no expert off R is ever run. Use the estimator "
         "sparse, or set one of them.");
  }

  void declare(const LayerSize&, std::string_view prefix, Parameters& parameters) const override {
    parameters.add(std::string(prefix) + kPhase, Tensor::zeros({1}, DType::f64, Device::cpu),
                   false);
  }

  Combined combine(const EstimatorInput& in) const override {
    const Routing& r = in.routing;
    Var y = in.experts.mixture(in.x, r.weights, in.plan);
    if (!in.training()) return y;
    Tensor ids = complement(r.selected, in.plan.experts);
    const Var p = scores_off(r);  // [N, E], read off R alone
    const Experts fixed = in.experts.detached();
    const Var x = stop_gradient(in.x);
    const Tensor none = scalar_like(ids, -1.0);
    Updates updates;
    if (every_ > 0) {
      const Tensor stored = in.layer.weights.at(kPhase).value();
      const Tensor step =
          compute<functor::Affine>(stored.to(DType::f64).reshape({1, 1}), {1.0, 1.0});
      const auto due = [&](const Shape& shape) {
        const double last = static_cast<double>(every_) - 0.5;
        return greater(step, Tensor::full(shape, last, DType::f64, step.device()));
      };
      const Tensor next = where(due({1, 1}), scalar_like(step, 0.0), step).reshape({1});
      updates = {{kPhase, next.to(stored.dtype())}};
      const Tensor is_due = due(ids.shape());
      const Plan rest = make_plan(where(is_due, ids, none), in.plan.experts);
      y = fixed.straight_through_mixture(y, x, p, rest);
      ids = where(is_due, none, ids);
    }
    if (probes_ == 0) return {y, updates};
    const Drawn drawn = draw(stop_gradient(r.scores), ids);
    const Var weights = take_columns(p, drawn.ids) * in.x.tape().constant(drawn.factors);
    const Plan plan = make_plan(drawn.ids, in.plan.experts);
    return {fixed.straight_through_mixture(y, x, weights, plan), updates};
  }

 private:
  struct Drawn {
    Tensor ids;      // i32 [N, m], -1 where a token has no expert to draw
    Tensor factors;  // [N, m]: 1/(m q)
  };

  // Among the ids i32 [N, E] that are not -1; the scores are frozen under replay.
  Drawn draw(Var scores, const Tensor& ids) const {
    const Tensor p = scores.value();
    const Tensor open = greater(ids, scalar_like(ids, -1.0));
    const Tensor count = reduce_rows(Reduction::sum, open.to(DType::f64));
    const auto number = [&](double v) { return scalar_like(count, v); };
    // Where there is none: of all alike, to be dropped again.
    const Tensor closed = where(greater(count, number(0.0)), number(kNotOpen), number(0.0));
    const Tensor mass =
        by_score_
            ? compute<functor::Log>(compute<functor::Maximum>(p.to(DType::f64), number(kLeastMass)))
            : Tensor::zeros(p.shape(), DType::f64, p.device());
    const Tensor logits = where(open, mass, closed);
    const Tensor any =
        sample_experts(scores.tape().constant(logits), probes_, /*replacement=*/true, "probe");
    const Tensor drawn = where(take_columns(open, any), any, scalar_like(ids, -1.0));
    const Tensor log_q = logits.like();
    kernels(log_q.device()).log_softmax(logits, {logits.size(0), logits.size(1), 1}, log_q);
    const Tensor less = compute<functor::Neg>(take_columns(log_q, drawn));
    const Tensor factors = compute<functor::Affine>(compute<functor::Exp>(less),
                                                    {1.0 / static_cast<double>(probes_), 0.0});
    return {drawn, factors.to(p.dtype())};
  }

  std::int64_t probes_;
  std::int64_t every_;
  bool by_score_;
};

}  // namespace

EstimatorEntry ste_probe_estimator() {
  return {.name = "ste-probe",
          .summary = "ste-dense-router's gradient in the mean, from a few drawn experts",
          .source = "ours",
          .formula =
              "J_1 .. J_m drawn from q over the experts off R; dL/dp_i = <g, E_i> on R and\n"
              "(1/m) sum_j [J_j = i] <g, E_i>/q_i off R, in the mean that of ste-dense-router;\n"
              "experts and x get the sparse layer's gradient",
          .traits = {.dense = true,
                     .mean_of = "ste-dense-router",
                     .state = "steps since all experts ran (estimator.phase)"},
          .options = {option::integer("probes", "experts that are drawn for each token")
                          .initially("1")
                          .from(0, 1e6)
                          .tried({"2", "3"}),
                      option::choice("proposal", {"uniform", "scores"},
                                     "q: the same for all experts off R, or as their scores"),
                      option::integer("every", "each so many steps all experts off R run; 0: never")
                          .initially("0")
                          .from(0, 1e6)
                          .tried({"1", "2"})},
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            return std::make_unique<SteProbeEstimator>(o);
          },
          .draws = {"probe"}};
}

}  // namespace moegrad
