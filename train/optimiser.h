#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/parameters.h"

namespace moegrad {

class Kernels;
struct ParameterStep;
struct StepSize;

// A rule for changing parameters by their gradients, in place, on the device that they are on. Its
// state is made, all zero, for the parameters it is constructed with, and only these may be given
// to step().
class Optimiser {
 public:
  virtual ~Optimiser() = default;

  // One step at learning_rate (f64 []), by gradients that are scaled down where their norm is above max_norm (0: never;
  // Pascanu, Mikolov & Bengio, arXiv:1211.5063). A parameter learns at learning_rate *
  // Parameter::rate, with weight decay where Parameter::decays.
  // Returns that norm (f64 []), of the gradients of all trained parameters together. Where it is
  // not finite, and where `loss` is given and is not (NaN then), nothing was changed: neither
  // parameters nor state nor steps(). Only who reads it waits for the device.
  Tensor step(Parameters& parameters, const Gradients& gradients, const Tensor& learning_rate,
              double max_norm = 0.0, const Tensor& loss = {});
  Tensor step(Parameters& parameters, const Gradients& gradients, double learning_rate,
              double max_norm = 0.0, const Tensor& loss = {}) {
    return step(parameters, gradients,
                Tensor::full({}, learning_rate, DType::f64, parameters.device()), max_norm, loss);
  }

  // The state as handles {name, tensor}: copy from them to save, into them to restore.
  const std::vector<std::pair<std::string, Tensor>>& state() const { return state_; }
  // How many steps the moments have seen, which AdamW corrects them by; and, by name, those of
  // parameters whose moments began later than others. Both are read from the device.
  std::int64_t steps() const { return static_cast<std::int64_t>(steps_.front().item()); }
  std::map<std::string, std::int64_t> fewer_steps() const;
  void set_steps(std::int64_t steps, const std::map<std::string, std::int64_t>& fewer = {});

 protected:
  // `slots` tensors for each parameter, two at most: "momentum", ...
  Optimiser(const Parameters& parameters, const std::vector<std::string>& slots);
  virtual void update(Kernels& device, std::span<const ParameterStep> parameters,
                      const StepSize& size) = 0;

 private:
  std::vector<const Parameter*> known_;
  std::size_t slots_;
  std::vector<std::pair<std::string, Tensor>> state_;  // parameter by parameter
  std::vector<Tensor> steps_;                          // f64 [] each: the different numbers
  std::vector<std::size_t> count_;                     // by parameter, which of them is its own
};

// g += decay p; u = momentum u + g; p -= lr u, with Nesterov's look-ahead lr (g + momentum u).
class SgdOptimiser : public Optimiser {
 public:
  struct Config {
    double momentum = 0.9;
    bool nesterov = false;
    double weight_decay = 0.0;
  };
  SgdOptimiser(const Parameters& parameters, const Config& config);

 private:
  void update(Kernels& device, std::span<const ParameterStep> parameters,
              const StepSize& size) override;
  Config config_;
};

// AdamW (Loshchilov & Hutter, arXiv:1711.05101): p -= lr (m^ / (sqrt(v^) + epsilon) + decay p).
class AdamWOptimiser : public Optimiser {
 public:
  struct Config {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;  // at least 1e-12
    double weight_decay = 0.01;
  };
  AdamWOptimiser(const Parameters& parameters, const Config& config);

 private:
  void update(Kernels& device, std::span<const ParameterStep> parameters,
              const StepSize& size) override;
  Config config_;
};

}  // namespace moegrad
