#pragma once

#include <memory>
#include <span>
#include <vector>

#include "lab/bias.h"
#include "moe/layer.h"

namespace moegrad {

// The layer of one cell on one draw of tokens, parameters and loss: the same numbers for every
// router and estimator. The first E columns of x have the deviation `scale`, and the experts are
// blind to them; where the router has a weight [D, E] it is the identity of these, so that they are
// the logits of a router whose logits are x W. All tokens are one sequence. Shared experts are left
// out, as they are in the dense layer. The layer is on the device, its numbers are drawn on the host.
class BiasSetting {
 public:
  BiasSetting(const BiasCase& of, const Rng& rng, Device device = Device::cpu);

  // The logits of the first token [1, E], or the router's trained parameters: what is moved. On the
  // host.
  const std::vector<Tensor>& inputs() const { return inputs_; }
  bool by_logits() const { return by_logits_; }
  // The loss of the first token as a program, on the device, of the inputs; its gradient is the
  // estimator's. Each run writes the numbers of also(): expert evaluations of a token, ||w - g||^2, w by expert.
  Program program();
  const std::vector<double>& also() const { return also_; }
  // The gradients of the dense softmax layer with the router's logits, by input; empty where the
  // router has no logits for each token and expert.
  std::vector<Tensor> dense_gradient() const;
  // The softmax g of the logits; empty likewise.
  const std::vector<double>& softmax_weights() const { return softmax_; }

 private:
  std::int64_t experts() const { return of_.experts; }
  void declare(const Rng& rng);
  void find_logits();
  void warm_up(const Rng& rng);
  bool is_input(const Parameter& p) const;
  Weights weights(Tape& tape, std::span<const Var> in) const;
  Var tokens(Tape& tape, std::span<const Var> in) const;
  Var losses_of(Var y) const;
  Var run(Tape& tape, std::span<const Var> in);
  void note(const LayerOutput& out, std::int64_t copies);
  std::vector<Var> variables(Tape& tape) const;

  const BiasCase of_;
  const Device device_;
  LayerConfig config_;
  std::int64_t tokens_ = 1;
  Tensor x_;
  Parameters parameters_;
  std::unique_ptr<Layer> layer_;
  Tensor direction_, target_, matrix_;
  bool by_logits_ = false;
  bool has_logits_ = true;
  std::vector<Tensor> inputs_;
  std::vector<double> softmax_;
  std::vector<double> also_;
  Updates updates_;
};

}  // namespace moegrad
