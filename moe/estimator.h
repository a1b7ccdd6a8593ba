#pragma once

#include <utility>

#include "moe/experts.h"
#include "moe/plan.h"
#include "moe/router.h"

namespace moegrad {

struct RouterEntry;

// What an estimator is given.
struct EstimatorInput {
  Var x;  // [N, D]: the rows that the experts work on
  const Routing& routing;
  const Plan& plan;
  const Experts& experts;
  const LayerInput& layer;

  bool training() const { return layer.training; }
};

// What it gives.
struct Combined {
  Combined(Var output) : y(output) {}  // NOLINT(google-explicit-constructor): most give y alone
  Combined(Var output, Updates state) : y(output), updates(std::move(state)) {}

  Var y;            // [N, Dout]
  Updates updates;  // of the estimator's state, for the next step
};

// How the gradient passes the selection: from routing and experts to y [N, Dout]. The forward value
// is the sparse layer's; the backward pass is that of one surrogate (docs/design.md):
//
//   y = sum_{i in R} sg(w_i) E_i(x)                          value; experts and input
//     + sum_i c_i (w_i - sg w_i) sg(V_i)                     router; value 0
//     + sum_{i not in R} sg(p_i) (A_i - sg A_i)              optional, experts off R; value 0
//
// Each exists twice, written out from stop_gradient and plain operations (the definition), and
// fused; `form` says which.
class Estimator {
 public:
  virtual ~Estimator() = default;
  // Refuses sizes and routers that it makes no sense with.
  virtual void check(const LayerSize& size, const RouterEntry& router) const {
    static_cast<void>(size), static_cast<void>(router);
  }
  // Adds parameters and state (not trained) of its own, under prefix + "estimator."; mostly none.
  virtual void declare(const LayerSize& size, std::string_view prefix,
                       Parameters& parameters) const {
    static_cast<void>(size), static_cast<void>(prefix), static_cast<void>(parameters);
  }
  // True where a token's output depends on other tokens of the batch, in training or at inference.
  virtual bool leaks() const { return false; }
  // True where the router gets the gradient of its combine weights alone, and nothing of experts
  // that a token did not select; `renormalised`: where the weights are.
  virtual bool weights_alone(bool renormalised) const {
    static_cast<void>(renormalised);
    return false;
  }
  virtual Combined combine(const EstimatorInput& in) const = 0;

  // For estimators that need the losses of the samples drawn: how many copies of each token run,
  // and the objective whose gradient is the estimate, from the losses [N n] (the copies of a token
  // one behind the other). By default one copy, and the mean.
  virtual std::int64_t samples() const { return 1; }
  virtual bool needs_losses() const { return false; }
  virtual Var objective(Var losses, const Routing& routing, const LayerInput& layer) const;

  Form form = Form::automatic;

 protected:
  bool fused(Tape& tape) const { return is_fused(form, tape); }
};

}  // namespace moegrad
