#include "train/optimiser.h"

#include <cmath>

#include "tensor/kernels.h"

namespace moegrad {

Optimiser::Optimiser(const Parameters& parameters, const std::vector<std::string>& slots)
    : slots_(slots.size()) {
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

void Optimiser::step(Parameters& parameters, const Gradients& gradients, double learning_rate,
                     double gradient_scale) {
  if (parameters.size() != known_.size()) {
    fail("optimiser", "{} parameters; it was made for {}. Make another one.", parameters.size(),
         known_.size());
  }
  if (!std::isfinite(gradient_scale)) {
    fail("optimiser", "a factor of {} for the gradients. Give a finite one: see clip_scale().",
         gradient_scale);
  }
  ++steps_;
  std::size_t i = 0;
  for (const Parameter& p : parameters) {
    if (&p != known_[i]) {
      fail("optimiser", "'{}' is no parameter that it was made for. Make another one.", p.name);
    }
    if (p.trained) {
      update(p, gradients[p], learning_rate * p.rate, gradient_scale, &state_[i * slots_]);
    }
    ++i;
  }
}

SgdOptimiser::SgdOptimiser(const Parameters& parameters, const Config& config)
    : Optimiser(parameters, {"momentum"}), config_(config) {}

void SgdOptimiser::update(const Parameter& p, const Tensor& gradient, double learning_rate,
                          double gradient_scale, const std::pair<std::string, Tensor>* slots) {
  const SgdStep step{.learning_rate = learning_rate,
                     .momentum = config_.momentum,
                     .weight_decay = p.decays ? config_.weight_decay : 0.0,
                     .nesterov = config_.nesterov};
  kernels(p.value.device()).sgd(step, gradient_scale, gradient, slots[0].second, p.value);
}

AdamWOptimiser::AdamWOptimiser(const Parameters& parameters, const Config& config)
    : Optimiser(parameters, {"first_moment", "second_moment"}), config_(config) {}

void AdamWOptimiser::update(const Parameter& p, const Tensor& gradient, double learning_rate,
                            double gradient_scale, const std::pair<std::string, Tensor>* slots) {
  const AdamWStep step{.learning_rate = learning_rate,
                       .beta1 = config_.beta1,
                       .beta2 = config_.beta2,
                       .epsilon = config_.epsilon,
                       .weight_decay = p.decays ? config_.weight_decay : 0.0,
                       .step = steps_};
  kernels(p.value.device())
      .adamw(step, gradient_scale, gradient, slots[0].second, slots[1].second, p.value);
}

namespace {

double squares_of(const Tensor& x) {
  const Tensor sum = Tensor::empty({}, x.dtype(), x.device());
  kernels(x.device()).reduce(Reduction::sum_of_squares, x, {1, x.numel(), 1}, sum);
  return sum.item();
}

}  // namespace

double global_norm(const Parameters& parameters, const Gradients& gradients) {
  double squares = 0.0;
  for (const Parameter& p : parameters) {
    if (!p.trained) continue;
    const Tensor g = gradients[p];
    const double sum = squares_of(g);
    // In f32 the squares of numbers beyond 1e19 or below 1e-19 overflow or vanish: f64 then.
    const bool exact = sum > 1e-25 && std::isfinite(sum);
    squares += exact ? sum : squares_of(g.to(DType::f64));
  }
  return std::sqrt(squares);
}

double clip_scale(double norm, double max_norm) {
  if (!std::isfinite(norm)) {
    fail("clip",
         "the norm of the gradients is {}. Find its source with Tape::Options::check_finite, and "
         "make no step.",
         norm);
  }
  return max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace moegrad
