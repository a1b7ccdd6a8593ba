#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "moe/layer_config.h"

namespace moegrad {

struct LayerOutput {
  Var x;  // [N, D], as given
  Var y;  // [N, Dout]
  // Of the tokens alone; where padding was taken out, `mask` is that of the input, and with_padding
  // (moe/padding.h) puts it back.
  Routing routing;
  Plan plan;
  Tensor mask = {};  // on the host
  Var auxiliary;     // scalar: what the balance losses add; undefined where none is asked for
  PoolVector<AuxiliaryLoss> losses;  // what it is made of: those of the router, aux, z-loss
  Updates updates;                   // of the layer's state, for the next step

  // f64 [E]: the slots of each expert; of merged experts, their weights.
  Tensor expert_load() const;
  // f64 []: how many experts a token runs, in the mean: of the layer's, not of those that return x.
  Tensor experts_of_a_token() const;
  // f64 []: the choices that a capacity dropped.
  Tensor dropped() const;
};
// The part of all choices that a capacity dropped, of how many it did and the load of each expert;
// 0 where there is no choice.
double dropped_share(double dropped, std::span<const double> load);

// One mixture layer: router, plan, experts, estimator. Holds no numbers: they come as Weights.
//   router.*, experts.w1 [E, D, H], experts.w2 [E, H, Dout], for SwiGLU experts.w3 [E, D, H],
//   optional experts.b1, experts.b2, experts.b3; for shared experts shared.* likewise
class Layer {
 public:
  // Errors: unknown router, estimator or option; k outside 1 .. E; sizes below 1; aux or z-loss
  // where it would be a constant.
  explicit Layer(const LayerConfig& config);

  // False where the task gives the router no gradient: its weights are constants, and the estimator
  // passes the gradient of the weights alone.
  bool router_learns() const;
  // Says so on standard error, once for each router however many layers there are. For whoever is
  // about to train, or to show a gradient; the layer itself is silent.
  void say_where_silent() const;
  // The losses that are added, "balance=0.01, aux=0.01"; "none".
  const std::string& losses() const { return parts_.losses; }

  // Adds all parameters under prefix + name, f64 values drawn from rng.named(that name): experts uniform within
  // +- sqrt(1 / fan-in) (He et al. for relu within a constant), biases zero.
  void declare(std::string_view prefix, Parameters& parameters, const Rng& rng) const;

  // x [N, D], N >= 1, at least one of them a token.
  LayerOutput forward(const LayerInput& in) const;
  LayerOutput forward(Var x, const Weights& weights, bool training) const {
    return forward(LayerInput{x, weights, training});
  }

  // For estimators that need the losses of the samples drawn (moe/estimator.h).
  const Estimator& estimator() const { return *parts_.estimator; }
  // Their objective, from the loss of each row [N] of a pass; what padding lost is left out.
  Var objective(Var losses, const LayerOutput& out, const LayerInput& in) const;

  const LayerConfig& config() const { return config_; }
  // The estimator's form, for tests; automatic by default.
  void set_form(Form form) { parts_.estimator->form = form; }

 private:
  Experts experts(const Weights& weights, std::string_view kind) const;
  Var without_zero_experts(Var x, Routing& routing) const;
  LayerOutput forward_tokens(const LayerInput& in) const;

  LayerConfig config_;
  LayerParts parts_;
};

}  // namespace moegrad
