#include "train/optimiser.h"

#include <algorithm>
#include <utility>

#include "tensor/kernels.h"

namespace moegrad {

Optimiser::Optimiser(const Parameters& parameters, const std::vector<std::string>& slots)
    : slots_(slots.size()),
      steps_{Tensor::zeros({}, DType::f64, parameters.device())},
      count_(parameters.size()) {
  for (const Parameter& p : parameters) {
    known_.push_back(&p);
    for (const std::string& slot : slots) {
      const Tensor zeros = p.trained
                               ? Tensor::zeros(p.value.shape(), p.value.dtype(), p.value.device())
                               : Tensor::zeros({0}, p.value.dtype(), p.value.device());
      state_.emplace_back(slot + "." + p.name, zeros);
    }
  }
}

Tensor Optimiser::step(Parameters& parameters, const Gradients& gradients,
                       const Tensor& learning_rate, double max_norm, const Tensor& loss) {
  if (parameters.size() != known_.size()) {
    fail("optimiser", "{} parameters; it was made for {}. Make another one.", parameters.size(),
         known_.size());
  }
  PoolVector<ParameterStep> list;
  PoolVector<std::size_t> count;
  std::size_t i = 0;
  for (const Parameter& p : parameters) {
    if (&p != known_[i]) {
      fail("optimiser", "'{}' is no parameter that it was made for. Make another one.", p.name);
    }
    if (p.trained) {
      const Shape& made_for = state_[i * slots_].second.shape();
      if (!(p.value.shape() == made_for)) {
        fail("optimiser", "'{}' is {} and was {} when this was made. Make another one.", p.name,
             p.value.shape(), made_for);
      }
      ParameterStep s{
          .parameter = p.value, .gradient = gradients.find(p), .rate = p.rate, .decays = p.decays};
      for (std::size_t j = 0; j < slots_; ++j) s.moments[j] = state_[i * slots_ + j].second;
      list.push_back(std::move(s));
      count.push_back(count_[i]);
    }
    ++i;
  }
  Kernels& device = kernels(parameters.device());
  StepSize size{.learning_rate = learning_rate,
                .norm = Tensor::empty({}, DType::f64, parameters.device()),
                .max_norm = max_norm,
                .steps = steps_.front()};
  device.gradient_norm(list, loss, size.norm);
  for (std::size_t c = 0; c < steps_.size(); ++c) {
    PoolVector<ParameterStep> alike;
    for (std::size_t j = 0; j < list.size(); ++j) {
      if (count[j] == c) alike.push_back(list[j]);
    }
    size.steps = steps_[c];
    update(device, alike, size);
  }
  return size.norm;
}

std::map<std::string, std::int64_t> Optimiser::fewer_steps() const {
  std::map<std::string, std::int64_t> fewer;
  for (std::size_t i = 0; i < known_.size(); ++i) {
    if (count_[i] == 0) continue;
    fewer[known_[i]->name] = static_cast<std::int64_t>(steps_[count_[i]].item());
  }
  return fewer;
}

void Optimiser::set_steps(std::int64_t steps, const std::map<std::string, std::int64_t>& fewer) {
  std::vector<std::int64_t> numbers = {steps};
  for (std::size_t i = 0; i < known_.size(); ++i) {
    const auto own = fewer.find(known_[i]->name);
    const std::int64_t number = own == fewer.end() ? steps : own->second;
    const auto found = std::ranges::find(numbers, number);
    count_[i] = static_cast<std::size_t>(found - numbers.begin());
    if (found == numbers.end()) numbers.push_back(number);
  }
  while (steps_.size() < numbers.size()) steps_.push_back(steps_.front().like());
  steps_.resize(numbers.size());
  for (std::size_t c = 0; c < numbers.size(); ++c) {
    kernels(steps_[c].device()).fill(static_cast<double>(numbers[c]), steps_[c]);
  }
}

SgdOptimiser::SgdOptimiser(const Parameters& parameters, const Config& config)
    : Optimiser(parameters, {"momentum"}), config_(config) {}

void SgdOptimiser::update(Kernels& device, std::span<const ParameterStep> parameters,
                          const StepSize& size) {
  device.sgd({.momentum = config_.momentum,
              .weight_decay = config_.weight_decay,
              .nesterov = config_.nesterov},
             parameters, size);
}

AdamWOptimiser::AdamWOptimiser(const Parameters& parameters, const Config& config)
    : Optimiser(parameters, {"first_moment", "second_moment"}), config_(config) {
  // Beside a smaller one moments count that the kernels make 0.
  if (!(config.epsilon >= 1e-12)) {
    fail("adamw", "epsilon is {}. Use 1e-12 or more.", config.epsilon);
  }
}

void AdamWOptimiser::update(Kernels& device, std::span<const ParameterStep> parameters,
                            const StepSize& size) {
  device.adamw({.beta1 = config_.beta1,
                .beta2 = config_.beta2,
                .epsilon = config_.epsilon,
                .weight_decay = config_.weight_decay},
               parameters, size);
}

}  // namespace moegrad
