// What the tests of routers share: a router by name and options, whose logits are x itself.
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moe/registry.h"

namespace moegrad::test {

inline std::unique_ptr<Router> router_of(const std::string& name,
                                         const std::map<std::string, std::string>& values = {}) {
  const RouterEntry& entry = router_entry(name);
  Options options("router " + name, entry.options);
  for (const auto& [key, value] : values) options.set(key, value);
  return entry.make(options);
}

inline Tensor identity(std::int64_t n) {
  const Tensor eye = Tensor::zeros({n, n}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < n; ++i) eye.write<double>()[i * n + i] = 1.0;
  return eye;
}

// D = E and router.weight = 1: the logits are x.
inline Weights identity_weights(Tape& tape, std::int64_t experts) {
  Weights weights;
  weights.set("router.weight", tape.constant(identity(experts)));
  return weights;
}

inline LayerSize square_size(std::int64_t experts, std::int64_t active) {
  return {experts, 1, 1, experts, active};
}

inline std::vector<double> softmax_row(const Tensor& o, std::int64_t row) {
  const std::int64_t n = o.size(1);
  std::vector<double> g;
  double sum = 0.0;
  for (std::int64_t e = 0; e < n; ++e) sum += std::exp(o.at(row * n + e));
  for (std::int64_t e = 0; e < n; ++e) g.push_back(std::exp(o.at(row * n + e)) / sum);
  return g;
}

// variance / (mean^2 + epsilon)
inline double variation(const std::vector<double>& v, double epsilon) {
  double mean = 0.0;
  double squares = 0.0;
  for (const double x : v) mean += x / static_cast<double>(v.size());
  for (const double x : v) squares += (x - mean) * (x - mean) / static_cast<double>(v.size());
  return squares / (mean * mean + epsilon);
}

inline double cdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

inline std::vector<std::int32_t> ids_of(const Tensor& t) {
  return {t.data<std::int32_t>(), t.data<std::int32_t>() + t.numel()};
}

}  // namespace moegrad::test
