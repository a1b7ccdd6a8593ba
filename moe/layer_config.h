#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moe/balance.h"
#include "moe/estimator.h"
#include "moe/experts.h"
#include "moe/options.h"
#include "moe/router.h"

namespace moegrad {

// What a mixture layer is made of.
struct LayerConfig {
  LayerSize size;
  std::string router = "top-k";
  std::string estimator = "sparse";
  // In place of the estimator's: the estimators whose router part and whose expert part are used.
  std::string router_gradient = {};
  std::string expert_gradient = {};
  ExpertKind expert = ExpertKind::network;
  Activation activation = Activation::relu;
  bool biases = true;
  // Options by name: of the router, of the estimator, or of the layer itself (layer_options()).
  std::map<std::string, std::string> options = {};
  // A causal model refuses routers and estimators that look at other tokens, unless forced; forced,
  // combinations that make no sense are let through as well.
  bool causal = false;
  bool force = false;
};

// The shape of the experts' w1.
Shape first_shape(const LayerConfig& config);

// Options that every layer has: aux (switch auxiliary), z-loss, simbal, erc (moe/balance.h), shared
// (experts always on), zero (experts that return x: MoE++, Jin et al., arXiv:2410.07348;
// LongCat-Flash, arXiv:2509.01322).
const std::vector<OptionSpec>& layer_options();
// What aux is unless it is given: that of the router's paper (RouterEntry::layer_options), or 0
// where the paper has no such loss or the router has a balance loss of its own.
double default_aux(const RouterEntry& router);

// What a configuration stands for.
struct LayerParts {
  std::unique_ptr<Router> router;
  std::unique_ptr<Estimator> estimator;
  double auxiliary = 0.0;  // coefficients of the layer's own losses
  double z_loss = 0.0;
  double similarity = 0.0;
  double coupling = 0.0;
  Coupling how_coupled = {};
  std::int64_t shared = 0;  // experts
  std::int64_t zero = 0;    // experts, the last of those that the router chooses from
  std::string losses;       // those that are added, "balance=0.01, aux=0.01"; "none"
};

// Errors: unknown router, estimator or option; k outside 1 .. E; sizes below 1; parts that make no
// sense together; aux or z-loss where it would be a constant.
LayerParts parts_of(const LayerConfig& config);

// The layer as its router sees it, with the zero experts among its experts.
LayerSize routed_size(const LayerConfig& config, const LayerParts& parts);

}  // namespace moegrad
