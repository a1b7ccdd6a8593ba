#include "lab/bias_setting.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/transfer.h"
#include "moe/checks/moments.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::int64_t kFeatures = 3;
constexpr std::int64_t kHiddenWidth = 4;
constexpr std::int64_t kOutputWidth = 4;
constexpr std::int64_t kContext = 16;  // tokens, where others of the batch can matter
constexpr int kWarmUp = 30;            // passes that fill a moving average

// A stream of random numbers of a setting.
Rng setting_rng(const Rng& draw, std::uint64_t what) { return draw.split(64 * draw.stream + what); }
Rng warm_up_rng(const Rng& draw, std::uint64_t pass) {
  return draw.split(0x7761'726d'0000'0000U + (draw.stream << 20U) + pass);
}

// [rows, columns]: 1 on the diagonal.
Tensor diagonal(std::int64_t rows, std::int64_t columns) {
  const Tensor w = Tensor::zeros({rows, columns}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < std::min(rows, columns); ++i)
    w.write<double>()[i * columns + i] = 1.0;
  return w;
}

Tensor ids_of(std::int64_t tokens, Device device) {
  const Tensor ids = Tensor::empty({tokens}, DType::i32, Device::cpu);
  for (std::int64_t t = 0; t < tokens; ++t)
    ids.write<std::int32_t>()[t] = static_cast<std::int32_t>(t);
  return ids.to(device);
}

}  // namespace

BiasSetting::BiasSetting(const BiasCase& of, const Rng& rng, Device device)
    : of_(of), device_(device) {
  const RouterEntry& router = router_entry(of.router);
  tokens_ = router.traits.samples || router.traits.continuous ? 1 : kContext;
  config_.size = {of.experts + kFeatures, kHiddenWidth, kOutputWidth, of.experts, of.active};
  config_.router = of.router;
  config_.estimator = of.estimator;
  config_.activation = Activation::silu;
  config_.options = of.options;
  config_.options.try_emplace("shared", "0");
  x_ = Tensor::empty({tokens_, of.experts + kFeatures}, DType::f64, Device::cpu);
  const auto normal = [&](std::uint64_t stream, const Shape& shape, double deviation) {
    return setting_rng(rng, stream).normal(shape, DType::f64, 0.0, deviation);
  };
  const Tensor logits = normal(1, {kContext, of.experts}, of.scale);
  const Tensor features = normal(2, {kContext, kFeatures}, 1.0);
  for (std::int64_t i = 0; i < x_.numel(); ++i) {
    const std::int64_t t = i / (of.experts + kFeatures);
    const std::int64_t c = i % (of.experts + kFeatures);
    x_.write<double>()[i] = c < of.experts ? logits.at(t * of.experts + c)
                                           : features.at(t * kFeatures + c - of.experts);
  }
  direction_ = normal(3, {1, kOutputWidth}, 1.0);
  target_ = normal(4, {1, kOutputWidth}, 1.0);
  matrix_ = normal(5, {kOutputWidth, kOutputWidth}, 1.0);
  layer_ = std::make_unique<Layer>(config_);
  layer_->say_where_silent();
  declare(rng);
  for (const Parameter& p : parameters_) {
    if (p.trained && p.router) inputs_.push_back(p.value);
  }
  for (Parameter& p : parameters_) p.value = p.value.to(device_);
  for (Tensor* t : {&x_, &direction_, &target_, &matrix_}) *t = t->to(device_);
  find_logits();
  warm_up(rng);
}

// Experts of size one; no bias where the router is x W.
void BiasSetting::declare(const Rng& rng) {
  Rng own = setting_rng(rng, 6);
  layer_->declare("", parameters_, own);
  std::uint64_t stream = 7;
  for (Parameter& p : parameters_) {
    if (p.name == "router.weight" && p.value.shape() == Shape{config_.size.model, experts()}) {
      p.value = diagonal(config_.size.model, experts());
    }
    if (!p.name.starts_with("experts.")) continue;
    p.value = setting_rng(rng, stream++).normal(p.value.shape(), DType::f64);
    if (p.name != "experts.w1") continue;
    const std::int64_t rows = p.value.size(1);
    for (std::int64_t i = 0; i < p.value.numel(); ++i) {
      if (i / kHiddenWidth % rows < experts()) p.value.write<double>()[i] = 0.0;
    }
  }
}

// Whether the logits are x W, which is seen and not believed; what is moved; and the softmax.
void BiasSetting::find_logits() {
  by_logits_ = false;
  Tape tape;
  const Weights w = weights(tape, variables(tape));
  const LayerOutput out =
      layer_->forward({tape.constant(x_), w, false, ids_of(tokens_, device_), tokens_});
  const Tensor x = x_.to(Device::cpu);
  const Routing& r = out.routing;
  has_logits_ = !r.rows.defined() && r.logits.defined() &&
                r.logits.shape() == Shape{tokens_, experts()} && r.logits.needs_gradient();
  if (has_logits_) {
    const Tensor o = r.logits.value().to(Device::cpu);
    std::vector<double> row;
    for (std::int64_t e = 0; e < experts(); ++e) row.push_back(o.at(e));
    softmax_ = softmax_of(row);
    // o = c x for one number c
    double product = 0.0;
    double squares = 0.0;
    double most = 0.0;
    for (std::int64_t e = 0; e < experts(); ++e) {
      product += o.at(e) * x.at(e);
      squares += x.at(e) * x.at(e);
      most = std::fmax(most, std::abs(o.at(e)));
    }
    const double c = squares > 0.0 ? product / squares : 1.0;
    double off = 0.0;
    for (std::int64_t e = 0; e < experts(); ++e) {
      off = std::fmax(off, std::abs(o.at(e) - c * x.at(e)));
    }
    by_logits_ = router_entry(of_.router).traits.linear && off <= 1e-9 * most;
  }
  if (by_logits_) {
    inputs_ = {Tensor::empty({1, experts()}, DType::f64, Device::cpu)};
    for (std::int64_t e = 0; e < experts(); ++e) inputs_[0].write<double>()[e] = x.at(e);
  }
  if (inputs_.empty()) {
    fail("study",
         "router {} has no trained parameters: there is no gradient to study. Choose another.",
         of_.router);
  }
}

// The inputs as variables of a tape, on the device.
std::vector<Var> BiasSetting::variables(Tape& tape) const {
  std::vector<Var> in;
  for (const Tensor& input : inputs_) in.push_back(to(tape.variable(input), device_));
  return in;
}

bool BiasSetting::is_input(const Parameter& p) const {
  return !by_logits_ && p.trained && p.router;
}

Weights BiasSetting::weights(Tape& tape, std::span<const Var> in) const {
  Weights w;
  std::size_t next = 0;
  for (const Parameter& p : parameters_) {
    w.set(p.name, is_input(p) ? in[next++] : tape.constant(p.value));
  }
  return w;
}

// x, with the logits of the first token in place.
Var BiasSetting::tokens(Tape& tape, std::span<const Var> in) const {
  if (!by_logits_) return tape.constant(x_);
  const Tensor row = x_.rows(0, 1);
  const Var features = slice(tape.constant(row), 1, experts(), row.size(1));
  const Var first = concat({in[0], features}, 1);
  if (tokens_ == 1) return first;
  return concat({first, tape.constant(x_.rows(1, tokens_))}, 0);
}

// y [R, kOutputWidth] -> [R]
Var BiasSetting::losses_of(Var y) const {
  Tape& tape = y.tape();
  if (of_.loss == "linear") return sum(y * tape.constant(direction_), 1);
  const Var away = y - tape.constant(target_);
  if (of_.loss == "quadratic") return 0.5 * sum(square(away), 1);
  if (of_.loss == "cubic") return sum(square(away) * away, 1) / 3.0;
  return sum(tanh(matmul(away, tape.constant(matrix_))) * tape.constant(direction_), 1);
}

// The loss, whose gradient is that of the estimator's objective.
Var BiasSetting::run(Tape& tape, std::span<const Var> in) {
  const Estimator& estimator = layer_->estimator();
  const std::int64_t copies = estimator.samples();
  const Var one = tokens(tape, in);
  const Var x =
      copies == 1 ? one : concat(std::vector<Var>(static_cast<std::size_t>(copies), one), 0);
  const Weights w = weights(tape, in);
  const LayerInput input{x, w, true, ids_of(x.size(0), device_), x.size(0)};
  const LayerOutput out = layer_->forward(input);
  updates_ = out.updates;
  note(out, copies);
  const Var losses = losses_of(slice(out.y, 0, 0, copies));
  const Var loss = mean(losses);
  if (!estimator.needs_losses()) return loss;
  const Var objective = layer_->objective(losses, out, input);
  return objective + stop_gradient(loss - objective);
}

Program BiasSetting::program() {
  return [this](Tape& tape, std::span<const Var> in) { return run(tape, in); };
}

void BiasSetting::note(const LayerOutput& out, std::int64_t copies) {
  const Routing& r = out.routing;
  std::vector<double> w(static_cast<std::size_t>(experts()), 0.0);
  if (r.merge.defined()) {
    const Tensor merge = r.merge.value().to(Device::cpu);
    for (std::int64_t e = 0; e < experts(); ++e) w[static_cast<std::size_t>(e)] = merge.at(e);
  } else if (r.rows.defined()) {
    std::fill(w.begin(), w.end(), std::nan(""));
  } else {
    const Tensor selected = r.selected.to(Device::cpu);
    const Tensor combine = r.weights.value().to(Device::cpu);
    for (std::int64_t j = 0; j < copies * selected.size(1); ++j) {
      const std::int32_t e = selected.data<std::int32_t>()[j];
      if (e < 0) continue;
      w[static_cast<std::size_t>(e)] += combine.at(j) / static_cast<double>(copies);
    }
  }
  const double slots = out.plan.offsets().to(Device::cpu).at(out.plan.experts);
  const double evaluations = estimator_entry(of_.estimator).traits.dense
                                 ? static_cast<double>(experts())
                                 : slots / static_cast<double>(tokens_);
  double squares = softmax_.empty() ? std::nan("") : 0.0;
  for (std::size_t e = 0; e < softmax_.size(); ++e)
    squares += (w[e] - softmax_[e]) * (w[e] - softmax_[e]);
  also_ = {evaluations, squares};
  also_.insert(also_.end(), w.begin(), w.end());
}

std::vector<Tensor> BiasSetting::dense_gradient() const {
  if (!has_logits_) return {};
  Tape tape;
  std::vector<Var> leaves;
  std::vector<Var> in;
  for (const Tensor& input : inputs_) {
    leaves.push_back(tape.variable(input));
    in.push_back(to(leaves.back(), device_));
  }
  const Weights w = weights(tape, in);
  const Var x = tokens(tape, in);
  const Var logits =
      layer_->forward({x, w, false, ids_of(tokens_, device_), tokens_}).routing.logits;
  const Var features = slice(tape.constant(x_), 1, experts(), config_.size.model);
  LayerConfig config = config_;
  config.router = "softmax";
  config.estimator = "sparse";
  config.options = {{"shared", "0"}};
  Weights dense;
  for (const Parameter& p : parameters_) {
    if (p.name.starts_with("experts.")) dense.set(p.name, tape.constant(p.value));
  }
  dense.set("router.weight", tape.constant(diagonal(config.size.model, experts()).to(device_)));
  const Var y = Layer(config).forward(concat({logits, features}, 1), dense, true).y;
  const Gradients g = tape.backward(sum(losses_of(slice(y, 0, 0, 1))));
  std::vector<Tensor> gradients;
  for (const Var& v : leaves) gradients.push_back(g[v]);
  return gradients;
}

// Passes that move the estimator's state, as training would; the router is as it was made.
void BiasSetting::warm_up(const Rng& rng) {
  for (int i = 0; i < kWarmUp; ++i) {
    Tape tape({.gradients = false, .rng = warm_up_rng(rng, static_cast<std::uint64_t>(i))});
    run(tape, variables(tape));
    if (updates_.empty()) return;
    for (const auto& [name, value] : updates_) {
      if (!name.starts_with("estimator.")) continue;
      if (Parameter* p = parameters_.find(name)) p->value = value.to(DType::f64);
    }
  }
}

}  // namespace moegrad
