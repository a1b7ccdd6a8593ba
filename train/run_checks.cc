#include "train/run_checks.h"

#include <string>
#include <string_view>

#include "moe/layer.h"
#include "moe/registry.h"

namespace moegrad {

void require_capturable(const TrainConfig& c, Device device) {
  if (device == Device::cpu) {
    fail("train", "the cpu has no graphs to capture steps in. Use cuda, or do not capture.");
  }
  const auto require = [](std::string_view kind, const std::string& name, std::string_view what) {
    if (what.empty()) return;
    fail("train",
         "the {} '{}' computes {} on the host, and a captured step cannot wait for it. Use "
         "another, or do not capture.",
         kind, name, what);
  };
  require("router", c.router, router_entry(c.router).traits.on_host);
  require("expert", c.expert, c.expert == "cnn" ? "how many slots each has" : "");
  require("task", c.task, c.task == "distil" ? "where the tokens of its texts lie" : "");
  for (const std::string& name : {c.estimator, c.router_gradient, c.expert_gradient}) {
    if (name.empty()) continue;
    const EstimatorTraits& traits = estimator_entry(name).traits;
    const auto& [option, value] = traits.on_host_with;
    const auto given = c.options.find(option);
    if (option.empty() || (given != c.options.end() && given->second == value)) {
      require("estimator", name, traits.on_host);
    }
  }
}

TrainConfig with_other_estimator(TrainConfig config) {
  config.estimator = config.norms_of;
  config.router_gradient = config.expert_gradient = "";
  return config;
}

void check_run(const TrainConfig& config) {
  const Layer mixture(config.layer());
  if (config.norms_of.empty()) return;
  if (const char* const state = estimator_entry(config.norms_of).traits.state; state[0] != '\0') {
    fail("train", "norms_of is {}, which keeps {}. Name an estimator without a state.",
         config.norms_of, state);
  }
  const Layer other(with_other_estimator(config).layer());
}

}  // namespace moegrad
