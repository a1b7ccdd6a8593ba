#include "moe/router.h"

#include <algorithm>
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

// Gram and Schmidt on normal numbers, twice for the rounding.
Tensor orthogonal(std::int64_t rows, std::int64_t columns, double length, Rng rng) {
  const std::int64_t count = std::min(rows, columns);
  const std::int64_t n = std::max(rows, columns);
  Tensor basis = rng.normal({count, n}, DType::f64);
  double* v = basis.write<double>();
  const auto product = [&](std::int64_t a, std::int64_t b) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) sum += v[a * n + i] * v[b * n + i];
    return sum;
  };
  for (std::int64_t a = 0; a < count; ++a) {
    for (int pass = 0; pass < 2; ++pass) {
      for (std::int64_t b = 0; b < a; ++b) {
        const double p = product(a, b);
        for (std::int64_t i = 0; i < n; ++i) v[a * n + i] -= p * v[b * n + i];
      }
      const double norm = std::sqrt(product(a, a));
      for (std::int64_t i = 0; i < n; ++i) v[a * n + i] /= norm;
    }
  }
  Tensor out = Tensor::empty({rows, columns}, DType::f64, Device::cpu);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      out.write<double>()[r * columns + c] =
          length * (rows <= columns ? v[r * n + c] : v[c * n + r]);
    }
  }
  return out;
}

Tensor every_expert(std::int64_t tokens, std::int64_t experts, Device device) {
  return cycle({tokens, experts}, 1, experts, device);
}

}  // namespace moegrad
