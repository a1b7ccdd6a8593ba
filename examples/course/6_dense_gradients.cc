// Chapter 6: the router's gradient when two of eight experts run, by what stands for the six that
// did not, beside the gradient that it would have if all had run.
#include <cmath>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kTokens = 128;
constexpr std::int64_t kWidth = 8;
constexpr std::int64_t kExperts = 8;

struct Run {
  double loss;
  std::vector<double> router;  // the gradient of router.weight
};
Run run(const std::string& estimator) {
  LayerConfig config;
  config.size = {.model = kWidth, .hidden = 16, .output = 4, .experts = kExperts, .active = 2};
  config.router = "top-k";
  config.estimator = estimator;
  const Layer layer(config);
  Parameters parameters;
  const Rng rng{.seed = 1};
  layer.declare("", parameters, rng);
  Parameter& router = *parameters.find("router.weight");
  router.value = rng.named("router").normal(router.value.shape(), DType::f64, 0.0, 0.5);

  // The same tokens and the same targets for every estimator.
  Tape t({.rng = rng});
  const Var x = t.constant(rng.named("x").normal({kTokens, kWidth}, DType::f64));
  const Var target = t.constant(rng.named("target").normal({kTokens, 4}, DType::f64));
  const Weights weights = bind(t, parameters, "");
  LayerInput in{x, weights, true};
  in.sequence = kTokens;  // all tokens are of one sequence: attention looks within it
  const LayerOutput out = layer.forward(in);
  const Var loss = mean(square(out.y - target));
  const double value = loss.value().item();
  return {value, t.backward(loss)[router].to_vector()};
}

double inner(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double norm_of(const std::vector<double>& a) { return std::sqrt(inner(a, a)); }

}  // namespace

int main() {
  const Run dense = run("ste-dense-router");
  fmt::print("{:<18} {:>8}  {:>6}  {:>10}\n", "estimator", "loss", "cosine", "norm ratio");
  bool same_loss = true;
  double sparse_cosine = 0.0;
  double best = 0.0;
  for (const std::string name : {"sparse", "expert-group", "attention", "ste-dense-router"}) {
    const Run r = run(name);
    const double cosine = inner(r.router, dense.router) / norm_of(r.router) / norm_of(dense.router);
    fmt::print("{:<18} {:>8.6f}  {:>6.3f}  {:>10.3f}\n", name, r.loss, cosine,
               norm_of(r.router) / norm_of(dense.router));
    same_loss = same_loss && r.loss == dense.loss;
    if (name == "sparse") sparse_cosine = cosine;
    if (name != "ste-dense-router") best = std::fmax(best, cosine);
  }
  return same_loss && best > sparse_cosine ? 0 : 1;
}
