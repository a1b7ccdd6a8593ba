#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "bench/report/cases.h"
#include "moe/experts.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "train/language.h"
#include "train/modules.h"

namespace moegrad::bench {
namespace {

constexpr std::array<Size, 10> kSizes = {{{64, 32, 64, 4, 1},
                                          {256, 64, 256, 8, 2},
                                          {1024, 64, 128, 8, 2},
                                          {2048, 128, 256, 8, 2},
                                          {16384, 64, 128, 8, 2},
                                          {4096, 256, 128, 64, 4},
                                          {4096, 256, 512, 16, 2},
                                          {4096, 256, 1024, 16, 2},
                                          {8192, 512, 1024, 8, 2},
                                          {2048, 1024, 2048, 8, 2}}};

Tensor normal(Rng& rng, const Shape& shape, double deviation = 1.0) {
  return rng.normal(shape, DType::f32, 0.0, deviation);
}

// Rounded to multiples of 1 / steps. Products of x and w1 so made are multiples of 2^-13, and in
// f32 their sums are exact in any order: no program differs from another at the kink of relu.
Tensor rounded(Tensor t, float steps) {
  for (float& x : t.write_values<float>()) x = std::round(x * steps) / steps;
  return t;
}

double deviation(std::int64_t fan_in) { return 1.0 / std::sqrt(static_cast<double>(fan_in)); }

}  // namespace

std::string Size::name() const {
  return fmt::format("N{}-D{}-H{}-E{}-k{}", tokens, model, hidden, experts, active);
}

std::span<const Size> sizes() { return kSizes; }
Size small_size() { return kSizes[2]; }
Size fine_size() { return kSizes[5]; }
Size large_size() { return kSizes[7]; }
Size larger_size() { return kSizes[8]; }
Size widest_size() { return kSizes[9]; }

BareLayer::BareLayer(const Size& size) : size_(size) {
  Rng rng{.seed = 1};
  x_ = rounded(normal(rng, {size.tokens, size.model}), 16.0F);
  gates_ = rng.uniform({size.tokens, size.active}, DType::f32);
  w1_ =
      rounded(normal(rng, {size.experts, size.model, size.hidden}, deviation(size.model)), 512.0F);
  w2_ = normal(rng, {size.experts, size.hidden, size.model}, deviation(size.hidden));
  dy_ = normal(rng, {size.tokens, size.model});
  selected_ = Tensor::empty({size.tokens, size.active}, DType::i32, Device::cpu);
  kernels(Device::cpu)
      .top_k(rng.uniform({size.tokens, size.experts}, DType::f32), size.active, selected_);
  plan_ = make_plan(selected_, size.experts);
}

Var BareLayer::record(Tape& tape, const Plan& plan) {
  const std::array<Tensor, 4> values = {x_, gates_, w1_, w2_};
  for (std::size_t i = 0; i < values.size(); ++i) leaves_[i] = tape.variable(values[i]);
  Experts experts;
  experts.w1 = leaves_[2];
  experts.w2 = leaves_[3];
  return experts.mixture(leaves_[0], leaves_[1], plan);
}

void BareLayer::step(bool plan_too) {
  const Var y = record(tape_, plan_too ? make_plan(selected_, size_.experts) : plan_);
  BackwardOptions options;
  options.cotangent = dy_;
  tape_.backward(y, options);
  tape_.clear();
}

void BareLayer::forward() {
  record(tape_, plan_);
  tape_.clear();
}

TensorFile BareLayer::file() {
  TensorFile file;
  file.tensors = {{"x", x_},   {"gates", gates_}, {"w1", w1_},
                  {"w2", w2_}, {"dy", dy_},       {"selected", selected_}};
  const Var y = record(tape_, plan_);
  file.tensors["y"] = y.value().clone();
  BackwardOptions options;
  options.cotangent = dy_;
  const Gradients g = tape_.backward(y, options);
  const std::array<const char*, 4> names = {"dx", "dgates", "dw1", "dw2"};
  for (std::size_t i = 0; i < names.size(); ++i) file.tensors[names[i]] = g[leaves_[i]];
  tape_.clear();
  return file;
}

BareLayer::Memory BareLayer::memory() {
  Memory memory;
  step();
  const std::size_t before = pool::stats(Device::cpu).bytes_in_use;
  const auto peak = [&] { return pool::stats(Device::cpu).peak_bytes_in_use - before; };
  pool::reset_peak(Device::cpu);
  const Var y = record(tape_, plan_);
  memory.saved = tape_.bytes_saved() - w1_.bytes() - w2_.bytes();
  memory.forward_peak = peak();
  BackwardOptions options;
  options.cotangent = dy_;
  {
    const Gradients g = tape_.backward(y, options);
    memory.step_peak = peak();
  }
  tape_.clear();
  return memory;
}

WholeLayer::WholeLayer(const Size& size, const std::string& router, const std::string& estimator)
    : layer_({.size = size.layer(), .router = router, .estimator = estimator, .biases = false}) {
  Rng rng{.seed = 1};
  layer_.declare("", parameters_, rng);
  for (Parameter& p : parameters_) p.value = p.value.to(DType::f32);
  x_ = normal(rng, {size.tokens, size.model});
  target_ = normal(rng, {size.tokens, size.model});
}

void WholeLayer::step() {
  const LayerOutput out =
      layer_.forward(tape_.variable(x_), bind(tape_, parameters_, ""), /*training=*/true);
  tape_.backward(mse(out.y, tape_.constant(target_)));
  // State of the layer, such as moving averages.
  for (const auto& [name, value] : out.updates) {
    Parameter* state = parameters_.find(name);
    state->value = value.to(state->value.dtype());
  }
  tape_.clear();
}

DenseLayer::DenseLayer(const Size& size) {
  Rng rng{.seed = 1};
  x_ = normal(rng, {size.tokens * size.active, size.model});
  w1_ = normal(rng, {size.model, size.hidden}, deviation(size.model));
  w2_ = normal(rng, {size.hidden, size.model}, deviation(size.hidden));
  dy_ = normal(rng, x_.shape());
}

void DenseLayer::step() {
  const Var h = relu(matmul(tape_.variable(x_), tape_.variable(w1_)));
  BackwardOptions options;
  options.cotangent = dy_;
  tape_.backward(matmul(h, tape_.variable(w2_)), options);
  tape_.clear();
}

LanguageLayers::LanguageLayers(const TrainConfig& config) : config_(config) {
  Rng rng{.seed = 1};
  const auto matrix = [&](const Shape& shape) {
    return normal(rng, shape, deviation(shape[shape.rank() - 2]));
  };
  const std::int64_t n = config.batch * config.context;
  const std::int64_t d = config.width;
  const std::int64_t h = config.hidden;
  const std::int64_t e = config.experts;
  x_ = normal(rng, {n, d});
  dy_ = normal(rng, {n, d});
  cos_ = rng.uniform({config.context, d / config.heads}, DType::f32);
  sin_ = rng.uniform({config.context, d / config.heads}, DType::f32);
  for (int i = 0; i < 4; ++i) projections_.push_back(matrix({d, d}));
  const std::int64_t wide = config.active * h;
  dense_ = {matrix({d, wide}), matrix({d, wide}), matrix({wide, d})};
  experts_ = {matrix({e, d, h}), matrix({e, d, h}), matrix({e, h, d})};
  gates_ = rng.uniform({n, config.active}, DType::f32);
  const Tensor selected = Tensor::empty({n, config.active}, DType::i32, Device::cpu);
  kernels(Device::cpu).top_k(rng.uniform({n, e}, DType::f32), config.active, selected);
  plan_ = make_plan(selected, e);
  embedding_ = normal(rng, {kBytes, d});
  dlogits_ = normal(rng, {n, kBytes});
}

void LanguageLayers::back(Var y, const Tensor& dy) {
  BackwardOptions options;
  options.cotangent = dy;
  tape_.backward(y, options);
  tape_.clear();
}

void LanguageLayers::attend() {
  const Var x = tape_.variable(x_);
  const auto heads = [&](std::size_t which) {
    const Var projected = matmul(x, tape_.variable(projections_[which]));
    return split_heads(projected, config_.context, config_.heads);
  };
  const Var out =
      causal_attention(rotary(heads(0), cos_, sin_), rotary(heads(1), cos_, sin_), heads(2));
  back(matmul(join_heads(out, config_.heads), tape_.variable(projections_[3])), dy_);
}

void LanguageLayers::run_dense() {
  const Var x = tape_.variable(x_);
  const auto times = [&](std::size_t which) { return matmul(x, tape_.variable(dense_[which])); };
  back(matmul(silu(times(0)) * times(1), tape_.variable(dense_[2])), dy_);
}

void LanguageLayers::run_mixture() {
  Experts experts;
  experts.activation = Activation::swiglu;
  experts.w1 = tape_.variable(experts_[0]);
  experts.w3 = tape_.variable(experts_[1]);
  experts.w2 = tape_.variable(experts_[2]);
  back(experts.mixture(tape_.variable(x_), tape_.variable(gates_), plan_), dy_);
}

void LanguageLayers::run_head() {
  back(matmul(tape_.variable(x_), tape_.variable(embedding_), false, true), dlogits_);
}

void LanguageLayers::step() {
  for (std::int64_t l = 0; l < config_.layers; ++l) {
    attend();
    if (l == 0) run_dense();
    if (l > 0) run_mixture();
  }
  run_head();
}

double LanguageLayers::operations() const {
  const auto d = static_cast<double>(config_.width);
  const auto layers = static_cast<double>(config_.layers);
  // A place attends to half of the places, for its scores and for their mean.
  const double attention = d * (4.0 * d + static_cast<double>(config_.context));
  const double network = 3.0 * d * static_cast<double>(config_.active * config_.hidden);
  const double token = layers * (attention + network) + d * static_cast<double>(kBytes);
  return 6.0 * static_cast<double>(config_.batch * config_.context) * token;
}

}  // namespace moegrad::bench
