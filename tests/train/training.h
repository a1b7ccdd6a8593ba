#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moe/layer.h"
#include "tests/devices.h"
#include "train/classifier.h"
#include "train/step.h"

// A small classifier that is trained step by step.
namespace moegrad::test {

inline LayerConfig layer(const std::string& router, const std::string& estimator,
                         std::map<std::string, std::string> options = {}) {
  LayerConfig config;
  config.size = {.model = 8, .hidden = 6, .output = 8, .experts = 4, .active = 1};
  config.router = router;
  config.estimator = estimator;
  config.options = std::move(options);
  return config;
}

// A model in training on a device, whose batches are on the host.
class Training {
 public:
  explicit Training(const LayerConfig& config, Device device = Device::cpu, bool captures = false,
                    std::int64_t parts = 1)
      : model_(5, 3, config), parameters_(model_.initial(1, DType::f32)) {
    for (Parameter& p : parameters_) p.value = p.value.to(device);
    optimiser_.emplace(parameters_, AdamWOptimiser::Config{});
    step_.emplace(model_, parameters_, *optimiser_,
                  StepOptions{.max_norm = 1.0, .parts = parts, .captures = captures});
  }

  static Batch batch(std::uint64_t seed, std::int32_t rows = 12) {
    Rng rng{.seed = seed};
    Batch batch{.x = rng.normal({rows, 5}, DType::f32),
                .labels = Tensor::empty({rows}, DType::i32, Device::cpu),
                .ids = Tensor::empty({rows}, DType::i32, Device::cpu)};
    for (std::int32_t i = 0; i < rows; ++i) {
      batch.labels.write<std::int32_t>()[i] = i % 3;
      batch.ids.write<std::int32_t>()[i] = i;
    }
    return batch;
  }
  StepReport step(const Batch& batch, bool of_mixture = true) {
    return step(batch, Rng{.seed = 3}, 1e-2, of_mixture);
  }
  StepReport step(const Batch& batch, const Rng& rng, double learning_rate, bool of_mixture) {
    return (*step_)(batch, rng, learning_rate, of_mixture);
  }

  std::vector<Tensor> state() const {
    std::vector<Tensor> all;
    for (const Parameter& p : parameters_) all.push_back(p.value.to(Device::cpu).clone());
    for (const auto& [name, tensor] : optimiser_->state()) {
      all.push_back(tensor.to(Device::cpu).clone());
    }
    all.push_back(Tensor::scalar(static_cast<double>(optimiser_->steps())));
    return all;
  }
  const Classifier& model() const { return model_; }
  Parameters& parameters() { return parameters_; }

 private:
  Classifier model_;
  Parameters parameters_;
  std::optional<AdamWOptimiser> optimiser_;
  std::optional<TrainingStep> step_;
};

inline bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!a[i].same_bits(b[i])) return false;
  }
  return a.size() == b.size();
}

}  // namespace moegrad::test
