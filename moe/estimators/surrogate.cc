#include "moe/estimators/surrogate.h"

#include "moe/dispatch.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// x - sg x: zero, with the gradient of x.
Var gradient_only(Var x) { return x - stop_gradient(x); }

}  // namespace

Var scaled_gradient(Var x, const Tensor& factor) {
  return factor.defined() ? straight_through(x, x * x.tape().constant(factor)) : x;
}

// By its log where p may underflow.
Var scores_off(const Routing& r) {
  if (!r.log_normaliser.defined()) return r.scores;
  const Var log_sum = stop_gradient(r.log_normaliser);
  if (r.log_scores.defined()) return straight_through(r.scores, exp(r.log_scores - log_sum));
  // Where S underflows to 0 nothing reaches the selected: they are not read.
  const Tensor on = flags_of(r.selected, r.scores.size(1));
  const Var p = where(on, constant_like(r.scores, {}, 1.0), r.scores);
  return straight_through(r.scores, p / exp(log_sum));
}

Var written_sparse(Var h, Var weights, const Plan& plan) {
  return combine(h, stop_gradient(weights), plan) +
         combine(stop_gradient(h), gradient_only(weights), plan);
}

Var written_surrogate(Var h, Var weights, const Plan& plan, const Unselected& rest) {
  const auto require = [](bool defined, const char* field) {
    if (!defined) fail("estimator", "Unselected::{} is undefined. Set it.", field);
  };
  require(rest.plan.table.defined(), "plan");
  require(rest.values.defined(), "values");
  require(rest.scores.defined(), "scores");
  const Var y = written_sparse(h, weights, plan) +
                combine(stop_gradient(rest.values), gradient_only(rest.scores), rest.plan);
  if (!rest.experts) return y;
  return y + combine(gradient_only(rest.values), stop_gradient(rest.scores), rest.plan);
}

}  // namespace moegrad
