#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/parameters.h"

namespace moegrad {

// A rule for changing parameters by their gradients, in place. Its state is made, all zero, for the
// parameters it is constructed with, and only these may be given to step().
class Optimiser {
 public:
  virtual ~Optimiser() = default;

  // One step; gradients are multiplied by gradient_scale first. A parameter learns at
  // learning_rate * Parameter::rate, with weight decay where Parameter::decays.
  void step(Parameters& parameters, const Gradients& gradients, double learning_rate,
            double gradient_scale);

  // The state as handles {name, tensor}: copy from them to save, into them to restore.
  const std::vector<std::pair<std::string, Tensor>>& state() const { return state_; }
  // How many steps have been made.
  std::int64_t steps() const { return steps_; }
  void set_steps(std::int64_t steps) { steps_ = steps; }

 protected:
  // `slots` tensors for each parameter: "momentum", ...
  Optimiser(const Parameters& parameters, const std::vector<std::string>& slots);
  // Tensors of the slots of one parameter, in order.
  virtual void update(const Parameter& p, const Tensor& gradient, double learning_rate,
                      double gradient_scale, const std::pair<std::string, Tensor>* slots) = 0;

  std::int64_t steps_ = 0;

 private:
  std::vector<const Parameter*> known_;
  std::size_t slots_;
  std::vector<std::pair<std::string, Tensor>> state_;  // parameter by parameter
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
  void update(const Parameter& p, const Tensor& gradient, double learning_rate,
              double gradient_scale, const std::pair<std::string, Tensor>* slots) override;
  Config config_;
};

// AdamW (Loshchilov & Hutter, arXiv:1711.05101): p -= lr (m^ / (sqrt(v^) + epsilon) + decay p).
class AdamWOptimiser : public Optimiser {
 public:
  struct Config {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.01;
  };
  AdamWOptimiser(const Parameters& parameters, const Config& config);

 private:
  void update(const Parameter& p, const Tensor& gradient, double learning_rate,
              double gradient_scale, const std::pair<std::string, Tensor>* slots) override;
  Config config_;
};

// The norm of all gradients of trained parameters together, summed in their order.
double global_norm(const Parameters& parameters, const Gradients& gradients);

// What to multiply gradients of this norm by, so that it is at most `max_norm`; 1 where max_norm
// is 0: no clipping. An Error where the norm is NaN or infinite: a step would spoil every
// parameter. Pascanu, Mikolov & Bengio, arXiv:1211.5063.
double clip_scale(double norm, double max_norm);

}  // namespace moegrad
