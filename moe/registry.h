#pragma once

#include <functional>
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
  std::string weighting;  // value of the option "weighting"
  std::int64_t experts;
  std::int64_t active;
  double weight_bias_l1;     // ||E[w] - g||_1
  double weight_mse;         // E ||w - g||^2
  double gradient_bias;      // ||E[gradient] - dense gradient||
  double gradient_variance;  // E ||gradient - E[gradient]||^2
};

struct RouterEntry {
  std::string name;
  std::string summary;
  std::string source;
  Claim claim;
  bool samples;  // draws experts in training
  std::vector<OptionSpec> options;
  std::function<std::unique_ptr<Router>(const Options&)> make;
  std::vector<RecordedBias> recorded = {};
  std::int64_t least_active = 1;
};

struct EstimatorEntry {
  std::string name;
  std::string summary;
  std::string source;
  Claim claim;
  bool dense;  // runs experts that were not selected, in training
  std::vector<OptionSpec> options;
  std::function<std::unique_ptr<Estimator>(const Options&)> make;
};

const std::vector<RouterEntry>& routers();
const std::vector<EstimatorEntry>& estimators();
// An Error that names the nearest for an unknown name.
const RouterEntry& router_entry(const std::string& name);
const EstimatorEntry& estimator_entry(const std::string& name);

// Every declared operation: those of ops/, of dispatch and of the fused estimators.
std::vector<OperationEntry> all_declared_operations();

}  // namespace moegrad
