// The fixed cases whose instructions are counted. Small sizes: a counted program is fifty times
// slower, and what is lost by a slip shows at any size.
#include "bench/counts/cases.h"

#include <memory>
#include <utility>

#include "moe/layer.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "train/modules.h"
#include "train/optimiser.h"

namespace moegrad {
namespace {

constexpr int kChain = 100;

Var chain(Tape& tape, const Tensor& x) {
  Var v = tape.variable(x);
  for (int i = 0; i < kChain; ++i) v = affine(v, 0.5, 1.0);
  return v;
}

// 100 operations on one element.
CountCase record_case() {
  const auto tape = std::make_shared<Tape>();
  const Tensor x = Tensor::full({}, 1.0, DType::f32, Device::cpu);
  return {.call = [=] { chain(*tape, x); }, .prepare = [=] { tape->clear(); }};
}

CountCase backward_case() {
  const auto tape = std::make_shared<Tape>();
  const auto y = std::make_shared<Var>();
  const Tensor x = Tensor::full({}, 1.0, DType::f32, Device::cpu);
  return {.call = [=] { tape->backward(*y); },
          .prepare =
              [=] {
                tape->clear();
                *y = chain(*tape, x);
              }};
}

// Two linear layers of width 64 over 32 rows, and their backward pass.
CountCase mlp_case() {
  Rng rng{.seed = 1};
  const Tensor x = rng.normal({32, 64}, DType::f32);
  const Tensor w1 = rng.normal({64, 64}, DType::f32);
  const Tensor w2 = rng.normal({64, 64}, DType::f32);
  const Tensor b = rng.normal({64}, DType::f32);
  const auto tape = std::make_shared<Tape>();
  return {.call = [=] {
    const Var h = relu(matmul(tape->constant(x), tape->variable(w1)) + tape->variable(b));
    tape->backward(mean(square(matmul(h, tape->variable(w2)))));
    tape->clear();
  }};
}

// Forward and backward of a mixture layer with its loss: N 64, D 64, H 128, E 8, k 2.
CountCase layer_case(const char* router, const char* estimator) {
  struct State {
    explicit State(const LayerConfig& config) : layer(config) {
      layer.declare("", parameters, rng);
      for (Parameter& p : parameters) p.value = p.value.to(DType::f32);
    }
    Rng rng{.seed = 1};
    Layer layer;
    Parameters parameters;
    Tape tape;
  };
  LayerConfig config;
  config.size = {.model = 64, .hidden = 128, .output = 64, .experts = 8, .active = 2};
  config.router = router;
  config.estimator = estimator;
  const auto state = std::make_shared<State>(config);
  const Tensor x = state->rng.normal({64, 64}, DType::f32);
  const Tensor target = state->rng.normal({64, 64}, DType::f32);
  return {.call = [=] {
    Tape& tape = state->tape;
    tape.rng() = Rng{.seed = 2};  // the same draws every time
    const LayerOutput out = state->layer.forward(
        tape.variable(x), bind(tape, state->parameters, ""), /*training=*/true);
    Var loss = mse(out.y, tape.constant(target));
    if (out.auxiliary.defined()) loss = loss + out.auxiliary;
    tape.backward(loss);
    tape.clear();
  }};
}

CountCase softmax_case() {
  Rng rng{.seed = 1};
  const Tensor x = rng.normal({256, 64}, DType::f32);
  const Tensor y = Tensor::empty({256, 64}, DType::f32, Device::cpu);
  return {.call = [=] { kernels(Device::cpu).softmax(x, {256, 64, 1}, y); }};
}

// Forward and backward of 128 rows of 128.
CountCase layer_norm_case() {
  Rng rng{.seed = 1};
  const Tensor x = rng.normal({128, 128}, DType::f32);
  const Tensor scale = rng.normal({128}, DType::f32);
  const Tensor shift = rng.normal({128}, DType::f32);
  const Tensor cotangent = rng.normal({128, 128}, DType::f32);
  const auto tape = std::make_shared<Tape>();
  return {.call = [=] {
    tape->backward(layer_norm(tape->variable(x), tape->variable(scale), tape->variable(shift)),
                   {.cotangent = cotangent});
    tape->clear();
  }};
}

// 1024 tokens with two of 16 experts each.
CountCase plan_case() {
  Rng rng{.seed = 1};
  const Tensor selected = Tensor::empty({1024, 2}, DType::i32, Device::cpu);
  kernels(Device::cpu).top_k(rng.normal({1024, 16}, DType::f32), 2, selected);
  return {.call = [=] { make_plan(selected, 16); }};
}

// 16384 parameters in four tensors.
CountCase adamw_case() {
  struct State {
    Parameters parameters;
    Tape tape;
    Gradients gradients;
    std::unique_ptr<AdamWOptimiser> optimiser;
  };
  const auto state = std::make_shared<State>();
  Rng rng{.seed = 1};
  Var loss = state->tape.constant(Tensor::zeros({}, DType::f32, Device::cpu));
  for (const char* name : {"a.weight", "b.weight", "c.weight", "d.weight"}) {
    const Parameter& p = state->parameters.add(name, rng.normal({64, 64}, DType::f32));
    loss = loss + sum(square(state->tape.parameter(p)));
  }
  state->gradients = state->tape.backward(loss);
  state->optimiser = std::make_unique<AdamWOptimiser>(state->parameters, AdamWOptimiser::Config{});
  return {.call = [=] {
    state->optimiser->step(state->parameters, state->gradients, 1e-3, /*max_norm=*/1.0);
  }};
}

}  // namespace

const std::vector<CountEntry>& count_entries() {
  static const std::vector<CountEntry> entries = {
      {"record", record_case},
      {"backward", backward_case},
      {"mlp", mlp_case},
      {"layer-top-k-sparse", [] { return layer_case("top-k", "sparse"); }},
      {"layer-moesart-sparse", [] { return layer_case("moesart", "sparse"); }},
      {"layer-top-k-expert-group", [] { return layer_case("top-k", "expert-group"); }},
      {"softmax", softmax_case},
      {"layer-norm", layer_norm_case},
      {"plan", plan_case},
      {"adamw", adamw_case}};
  return entries;
}

}  // namespace moegrad
