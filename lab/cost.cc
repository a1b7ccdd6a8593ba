#include "lab/cost.h"

#include <algorithm>
#include <cstdlib>

#include "moe/registry.h"
#include "train/model.h"

namespace moegrad {
namespace {

constexpr double kForwardAndBackward = 3.0;

bool is_text(const TaskShape& task) { return task.ids && task.fields.empty(); }

double mixtures_of(const TrainConfig& config, const TaskShape& task) {
  if (!task.fields.empty()) return static_cast<double>(task.targets.size());
  return task.ids ? static_cast<double>(config.layers - 1) : 1.0;
}

// Elements of the matrices that every token meets; of the tables of a recommender it meets some rows.
double always_met(const Parameters& parameters) {
  double elements = 0.0;
  for (const Parameter& p : parameters) {
    const bool of_experts = p.name.find("experts.") != std::string::npos;
    if (!p.trained || p.value.rank() < 2 || of_experts || p.name.starts_with("embedding."))
      continue;
    elements += static_cast<double>(p.value.numel());
  }
  return elements;
}

// Times that a token goes through an expert.
double passes_of_experts(const TrainConfig& config, const LayerConfig& layer) {
  const auto all = static_cast<double>(layer.size.experts);
  const bool sparse = router_entry(layer.router).traits.sparse_training;
  const double on = sparse ? static_cast<double>(layer.size.active) : all;
  const std::string& of_router =
      config.router_gradient.empty() ? config.estimator : config.router_gradient;
  const std::string& of_experts =
      config.expert_gradient.empty() ? config.estimator : config.expert_gradient;
  double off = 0.0;
  if (of_experts == "ste-dense") {
    off = kForwardAndBackward * (all - on);
  } else if (of_router == "ste-probe") {
    const auto probes = config.options.find("probes");
    off = probes == config.options.end() ? 1.0 : std::strtod(probes->second.c_str(), nullptr);
  } else if (estimator_entry(of_router).traits.dense) {
    off = all - on;
  }
  return kForwardAndBackward * on + off;
}

}  // namespace

double operations_of_step(const TrainConfig& config, const TaskShape& task) {
  const auto model = make_model(task, config);
  const LayerConfig& layer = model->mixture().config();
  const Parameters parameters = model->initial(1, DType::f32);
  const auto places = static_cast<double>(model->tokens());
  const auto width = static_cast<double>(config.width);
  const double attention =
      is_text(task) ? static_cast<double>(config.layers) * places * width : 0.0;
  const double matrices = layer.activation == Activation::swiglu ? 3.0 : 2.0;
  const double expert = matrices * width * static_cast<double>(config.hidden);
  const double token = kForwardAndBackward * (always_met(parameters) + attention) +
                       mixtures_of(config, task) * expert * passes_of_experts(config, layer);
  return 2.0 * static_cast<double>(config.batch) * places * token;
}

}  // namespace moegrad
