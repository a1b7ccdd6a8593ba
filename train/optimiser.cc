#include "train/optimiser.h"

#include <utility>

#include "tensor/kernels.h"

namespace moegrad {

Optimiser::Optimiser(const Parameters& parameters, const std::vector<std::string>& slots)
    : slots_(slots.size()), steps_(Tensor::zeros({}, DType::f64, parameters.device())) {
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
    }
    ++i;
  }
  Kernels& device = kernels(parameters.device());
  const StepSize size{.learning_rate = learning_rate,
                      .norm = Tensor::empty({}, DType::f64, parameters.device()),
                      .max_norm = max_norm,
                      .steps = steps_};
  device.gradient_norm(list, loss, size.norm);
  update(device, list, size);
  return size.norm;
}

void Optimiser::set_steps(std::int64_t steps) {
  kernels(steps_.device()).fill(static_cast<double>(steps), steps_);
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
    : Optimiser(parameters, {"first_moment", "second_moment"}), config_(config) {}

void AdamWOptimiser::update(Kernels& device, std::span<const ParameterStep> parameters,
                            const StepSize& size) {
  device.adamw({.beta1 = config_.beta1,
                .beta2 = config_.beta2,
                .epsilon = config_.epsilon,
                .weight_decay = config_.weight_decay},
               parameters, size);
}

}  // namespace moegrad
