#include "moe/checks/moments.h"

#include <cmath>

#include "ops/ops.h"

namespace moegrad {
namespace {

Tensor identity(std::int64_t n) {
  const Tensor t = Tensor::zeros({n, n}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < n; ++i) t.write<double>()[i * n + i] = 1.0;
  return t;
}

}  // namespace

std::vector<double> softmax_of(const std::vector<double>& logits) {
  double largest = logits[0];
  for (const double o : logits) largest = std::fmax(largest, o);
  double sum = 0.0;
  std::vector<double> g;
  for (const double o : logits) {
    g.push_back(std::exp(o - largest));
    sum += g.back();
  }
  for (double& p : g) p /= sum;
  return g;
}

std::vector<double> recorded_logits(std::int64_t experts) {
  return Rng{2024, 1, 0}.normal({experts}, DType::f64, 0.0, 1.5).to_vector();
}
std::vector<double> recorded_outcomes(std::int64_t experts) {
  return Rng{2024, 2, 0}.normal({experts}, DType::f64).to_vector();
}

RouterMoments router_moments(const Router& router, const std::vector<double>& logits,
                             const std::vector<double>& outcomes, std::int64_t active,
                             std::span<const NoiseNode> noise) {
  const auto experts = static_cast<std::int64_t>(logits.size());
  const LayerSize size{experts, 1, 1, experts, active};
  const std::vector<double> g = softmax_of(logits);
  const Tensor x = Tensor::of<double>({1, experts}, logits);
  Parameters parameters;
  Rng rng;
  router.declare(size, "", parameters, rng);
  const auto route = [&](Tape& tape, Var tokens) {
    Weights weights;
    for (const Parameter& p : parameters) {
      if (p.name == "router.bias") continue;
      weights.set(p.name, tape.constant(p.name == "router.weight" ? identity(experts) : p.value));
    }
    return router.route(size, {tokens, weights, true});
  };

  RouterMoments m;
  m.mean.assign(logits.size(), 0.0);
  std::vector<double> mean_gradient(logits.size(), 0.0);
  double mean_square = 0.0;
  const auto add_outcome = [&](Decisions& decisions, double noise_probability) {
    Tape tape({.decisions = &decisions});
    const Var tokens = tape.variable(x);
    const Routing r = route(tape, tokens);
    std::vector<double> w(logits.size(), 0.0);
    for (std::int64_t j = 0; j < r.selected.numel(); ++j) {
      if (r.selected.data<std::int32_t>()[j] < 0) continue;
      w[static_cast<std::size_t>(r.selected.data<std::int32_t>()[j])] += r.weights.value().at(j);
    }
    const Var a = tape.constant(Tensor::of<double>({1, experts}, outcomes));
    const Gradients gradients = tape.backward(sum(r.weights * take_columns(a, r.selected)));
    const double p = noise_probability * decisions.probability();
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double d = gradients[tokens].at(static_cast<std::int64_t>(i));
      m.mean[i] += p * w[i];
      m.weight_mse += p * (w[i] - g[i]) * (w[i] - g[i]);
      mean_gradient[i] += p * d;
      mean_square += p * d * d;
    }
    ++m.outcomes;
  };
  const auto add_outcomes = [&](const NoiseNode& node) {
    Decisions decisions = Decisions::enumerator();
    for (const auto& [kind, value] : node.given) decisions.give(kind, value);
    do {
      add_outcome(decisions, node.probability);
    } while (decisions.next_outcome());
  };
  if (noise.empty()) add_outcomes({1.0, {}});
  for (const NoiseNode& node : noise) add_outcomes(node);
  for (std::size_t i = 0; i < g.size(); ++i) m.weight_bias_l1 += std::abs(m.mean[i] - g[i]);

  double mean_outcome = 0.0;
  for (std::size_t i = 0; i < g.size(); ++i) mean_outcome += g[i] * outcomes[i];
  double squares = 0.0;
  double dense_squares = 0.0;
  double product = 0.0;
  double mean_squares = 0.0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double dense = g[i] * (outcomes[i] - mean_outcome);
    const double mean = mean_gradient[i];
    squares += (mean - dense) * (mean - dense);
    dense_squares += dense * dense;
    mean_squares += mean * mean;
    product += mean * dense;
  }
  m.gradient_bias = std::sqrt(squares);
  m.gradient_variance = std::fmax(0.0, mean_square - mean_squares);
  m.norm_ratio = std::sqrt(mean_squares / dense_squares);
  m.cosine = mean_squares > 0.0 ? product / std::sqrt(mean_squares * dense_squares) : 0.0;
  return m;
}

}  // namespace moegrad
