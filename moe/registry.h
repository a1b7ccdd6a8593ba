#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/operation_check.h"
#include "moe/estimator.h"
#include "moe/options.h"
#include "moe/router.h"

namespace moegrad {

// What a router that is biased as documented does on one fixed case, found by enumeration: its
// combine weights against the softmax g, and its router gradient for a loss linear in the weights.
struct RecordedBias {
  std::map<std::string, std::string> options;  // other than the defaults
  std::int64_t experts;
  std::int64_t active;
  double weight_bias_l1;     // ||E[w] - g||_1
  double weight_mse;         // E ||w - g||^2
  double gradient_bias;      // ||E[gradient] - dense gradient||
  double gradient_variance;  // E ||gradient - E[gradient]||^2
};

// What is true of a router with its default options; the checks hold each line against what it
// does, and the edge suite, the studies, the layer and `moegrad list` go by it. Where a line says
// "or not", the other value promises nothing and is not held against anything.
struct RouterTraits {
  // Draws experts in training: enumerated draws, or noise that chooses (or not, where continuous).
  bool samples = false;
  bool continuous = false;    // takes noise in training that cannot be enumerated
  bool causal = true;         // a token's routing depends on no other token; or not
  bool in_order = false;      // the order of the tokens matters (a capacity)
  bool exchangeable = true;   // permuting the experts, and the choice, permutes the results
  bool softmax = true;        // the gradients of a token's logits sum to zero
  bool linear = true;         // logits = x W + b: a study can set them
  bool picks_largest = true;  // at inference, of equal logits the lowest experts; or not
  bool categorical = false;   // draws one expert from the softmax, with weight 1
  // False: every token runs all experts (in training: at first; at inference: far from there too).
  bool sparse_training = true;
  bool sparse_inference = true;
  const char* state = "";      // what checkpoints keep of it: the names, in words of any kind
  const char* auxiliary = "";  // losses of its own, and the options that are their coefficients
  std::vector<std::string> losses = {};  // all those options; at 0 there is no loss
  // Why the layer's aux would be a constant, and is refused: "gives every expert the same load".
  const char* constant_aux = "";
  bool constant_logits = false;  // the z-loss too
  // What route() computes on the host in training, at a wait for the device: "the weights in
  // training". Else, and at inference, it waits for nothing.
  const char* on_host = "";
};

// One node of a quadrature over a router's continuous noise: decisions and their probability.
struct NoiseNode {
  double probability = 0.0;
  std::vector<std::pair<std::string, Tensor>> given;
};

struct RouterEntry {
  std::string name;
  std::string summary;
  std::string source;
  std::string formula;  // lines of text: training, inference, losses
  Claim claim = Claim::exact_on_cell;
  RouterTraits traits = {};
  std::vector<OptionSpec> options = {};
  std::function<std::unique_ptr<Router>(const Options&)> make = nullptr;
  std::vector<RecordedBias> recorded = {};
  std::int64_t least_active = 1;
  std::int64_t most_active = std::numeric_limits<std::int64_t>::max();
  // The draws and noise by which a run is repeated: the kinds of its decisions.
  std::vector<std::string> draws = {"selected"};
  // Defaults of the layer's options that belong to the published system.
  std::map<std::string, std::string> layer_options = {};
  // Where the noise is continuous, in place of enumeration: the nodes for one token of these logits
  // and k active experts; the probabilities sum to 1.
  std::function<std::vector<NoiseNode>(const std::vector<double>& logits, std::int64_t active)>
      noise = nullptr;
};

// What is true of an estimator, held against what it does as a router's traits are.
struct EstimatorTraits {
  bool dense = false;  // runs experts that a token did not select, in training
  // In training the value has the bits of the sparse layer. An option `forward` says it in its
  // place.
  bool backward_only = true;
  bool categorical = false;      // for routers that draw one expert from the softmax, and no others
  bool by_parts = true;          // its router part and its expert part can be used alone; or not
  bool continuous = false;       // takes noise that cannot be enumerated
  bool sparse_inference = true;  // runs at inference what a token selected, and nothing else
  int order = 0;                 // Claim::biased_order: exact up to this degree
  bool choice_alone = false;     // Claim::biased_order: for sum_i f(p_i E_i) dp_i alone
  // Its gradients, in the mean over its draws, are those of the estimator of this name.
  const char* mean_of = "";
  const char* state = "";    // what checkpoints keep of it, with the names
  const char* on_host = "";  // what it computes on the host, as RouterTraits say it
  std::pair<std::string, std::string> on_host_with = {};  // with this option alone, and its value
};

struct EstimatorEntry {
  std::string name;
  std::string summary;
  std::string source;
  std::string formula;
  Claim claim = Claim::surrogate;
  EstimatorTraits traits = {};
  std::vector<OptionSpec> options = {};
  std::function<std::unique_ptr<Estimator>(const Options&)> make = nullptr;
  // The routers that the checks run it with.
  std::vector<std::string> routers = {"top-k", "moesart"};
  std::vector<std::string> draws = {};
};

const std::vector<RouterEntry>& routers();
const std::vector<EstimatorEntry>& estimators();
// Adds one of the user's own, which is then listed, checked, studied and trained like the others.
// Call it before anything else uses the registry. An Error for a name that is taken.
void add_router(RouterEntry entry);
void add_estimator(EstimatorEntry entry);
// An Error that names the nearest for an unknown name.
const RouterEntry& router_entry(const std::string& name);
const EstimatorEntry& estimator_entry(const std::string& name);

// Every declared operation: those of ops/, of dispatch and of the fused estimators.
std::vector<OperationEntry> all_declared_operations();

}  // namespace moegrad
