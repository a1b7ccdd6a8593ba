#include "moe/router.h"

#include <cmath>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

void Router::declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
                     const Rng& rng) const {
  const double deviation = 0.1 / std::sqrt(static_cast<double>(size.model));
  const std::string start(prefix);
  const std::string weight = start + "router.weight";
  parameters
      .add(weight, rng.named(weight).normal({size.model, size.experts}, DType::f64, 0.0, deviation))
      .decays = true;
  parameters.add(start + "router.bias", Tensor::zeros({size.experts}, DType::f64, Device::cpu));
}

void Routing::add_loss(const char* name, double coefficient, Var value) {
  losses.push_back({name, value});
  const Var scaled = coefficient * value;
  auxiliary = auxiliary.defined() ? auxiliary + scaled : scaled;
}

Var router_logits(Var x, const Weights& weights) {
  const Var logits = matmul(x, weights.at("router.weight"));
  const Var bias = weights.find("router.bias");
  return bias.defined() ? logits + bias : logits;
}

Tensor every_expert(std::int64_t tokens, std::int64_t experts, Device device) {
  return cycle({tokens, experts}, 1, experts, device);
}

}  // namespace moegrad
