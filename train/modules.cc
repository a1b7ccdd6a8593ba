#include "train/modules.h"

#include <cmath>
#include <string>

#include "ops/ops.h"

namespace moegrad {

Weights bind(Tape& tape, const Parameters& parameters, std::string_view prefix) {
  Weights weights;
  for (const Parameter& p : parameters) {
    if (!p.name.starts_with(prefix)) continue;
    weights.set(p.name.substr(prefix.size()),
                p.trained ? tape.parameter(p) : tape.constant(p.value));
  }
  return weights;
}

void Linear::declare(std::string_view prefix, Parameters& parameters, const Rng& rng) const {
  const double bound = std::sqrt(1.0 / static_cast<double>(inputs));
  const std::string start(prefix);
  const std::string weight = start + "weight";
  parameters.add(weight, rng.named(weight).uniform({inputs, outputs}, DType::f64, -bound, bound))
      .decays = true;
  parameters.add(start + "bias", Tensor::zeros({outputs}, DType::f64, Device::cpu));
}

Var Linear::operator()(Var x, const Weights& weights) const {
  return matmul(x, weights.at("weight")) + weights.at("bias");
}

void LayerNormModule::declare(std::string_view prefix, Parameters& parameters) const {
  const std::string start(prefix);
  parameters.add(start + "scale", Tensor::full({width}, 1.0, DType::f64, Device::cpu));
  parameters.add(start + "shift", Tensor::zeros({width}, DType::f64, Device::cpu));
}

Var LayerNormModule::operator()(Var x, const Weights& weights) const {
  return layer_norm(x, weights.at("scale"), weights.at("shift"));
}

Var split_heads(Var x, std::int64_t length, std::int64_t heads) {
  const std::int64_t batch = x.size(0) / length;
  const std::int64_t d = x.size(1) / heads;
  return reshape(transpose(reshape(x, {batch, length, heads, d}), 1, 2),
                 {batch * heads, length, d});
}

Var join_heads(Var x, std::int64_t heads) {
  const std::int64_t batch = x.size(0) / heads;
  const std::int64_t length = x.size(1);
  const std::int64_t d = x.size(2);
  return reshape(transpose(reshape(x, {batch, heads, length, d}), 1, 2),
                 {batch * length, heads * d});
}

}  // namespace moegrad
