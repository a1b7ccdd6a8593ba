// Which routers learn from the task: every router with every estimator, at the smallest k.

#include <cmath>

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "train/modules.h"

using namespace moegrad;

namespace {

using OptionMap = std::map<std::string, std::string>;

std::vector<OptionMap> variants_of(const std::vector<OptionSpec>& specs) {
  std::vector<OptionMap> all = {{}};
  for (const OptionSpec& spec : specs) {
    std::vector<std::string> values = spec.examples;
    if (spec.kind == OptionSpec::Kind::flag) values = {"true", "false"};
    if (spec.kind == OptionSpec::Kind::choice) values = spec.choices;
    for (const std::string& value : values) all.push_back({{spec.name, value}});
  }
  return all;
}

// The largest gradient of the router's parameters for the task alone.
double task_slope(const Layer& layer) {
  constexpr std::int64_t kTokens = 96;  // some of nearly equal logits, for the mask of sparsemixer
  Parameters parameters;
  Rng rng{3, 1, 0};
  layer.declare("", parameters, rng);
  for (Parameter& p : parameters) {
    if (p.router && p.trained) p.value = rng.normal(p.value.shape(), DType::f64);
  }
  Tape tape({.rng = Rng{5, 0, 0}});
  const Weights weights = bind(tape, parameters, "");
  const std::int64_t rows = kTokens * layer.estimator().samples();
  LayerInput in{tape.constant(Rng{4, 0, 0}.normal({rows, 4}, DType::f64)), weights};
  in.ids = Tensor::zeros({rows}, DType::i32, Device::cpu);
  in.sequence = 4;
  in.attention = Rng{4, 1, 0}.normal({rows / 4, 4, 4}, DType::f64);
  const LayerOutput out = layer.forward(in);
  const Var losses = sum(square(out.y), 1);
  const Gradients g = tape.backward(layer.objective(losses, out, in));
  double slope = 0.0;
  for (const Parameter& p : parameters) {
    if (!p.router || !p.trained || p.name == "router.omega") continue;
    for (const double v : g[p].to_vector()) slope = std::fmax(slope, std::abs(v));
  }
  return slope;
}

}  // namespace

TEST_CASE("a layer knows where the task gives its router no gradient") {
  int silent = 0;
  int learning = 0;
  for (const RouterEntry& router : routers()) {
    if (router.name == "hash") continue;  // has no parameters
    for (const EstimatorEntry& estimator : estimators()) {
      for (const OptionMap& of_router : variants_of(router.options)) {
        for (const OptionMap& of_estimator : variants_of(estimator.options)) {
          LayerConfig config;
          config.size = {4, 3, 2, 4, std::max<std::int64_t>(1, router.least_active)};
          config.router = router.name;
          config.estimator = estimator.name;
          config.options = of_router;
          config.options.insert(of_estimator.begin(), of_estimator.end());
          // Buckets that tokens of a short sequence share.
          if (estimator.name == "lsh-attention") config.options.try_emplace("planes", "1");
          std::string label = router.name + " / " + estimator.name;
          for (const auto& [name, value] : config.options) label += ", " + name + "=" + value;
          CAPTURE(label);
          try {
            const Layer layer(config);
            const double slope = task_slope(layer);
            CHECK((slope > 0.0) == layer.router_learns());
            ++(layer.router_learns() ? learning : silent);
          } catch (const Error&) {
            continue;  // refused: a pair that makes no sense
          }
        }
      }
    }
  }
  CHECK(silent > 20);
  CHECK(learning > 300);
}

TEST_CASE("the routers that do not learn at k = 1 with the estimator sparse") {
  const auto learns = [](const char* router, const OptionMap& options, std::int64_t k) {
    LayerConfig config;
    config.size = {4, 3, 2, 4, k};
    config.router = router;
    config.options = options;
    return Layer(config).router_learns();
  };
  const OptionMap renormalise = {{"renormalise", "true"}};
  const OptionMap softmax = {{"gate", "softmax"}};
  for (const std::int64_t k : {1, 2}) {
    CHECK(learns("top-k", renormalise, k) == (k == 2));
    CHECK(learns("loss-free", renormalise, k) == (k == 2));
    CHECK(learns("noisy-top-k", {}, k) == (k == 2));
    CHECK(learns("deepseek-v3", {}, k) == (k == 2));
    CHECK(learns("x-moe", softmax, k) == (k == 2));
    CHECK(learns("top-k", {}, k));
    CHECK(learns("x-moe", {}, k));
  }
  CHECK_FALSE(learns("categorical", {}, 1));
  CHECK_FALSE(learns("moesart", {{"weighting", "zero"}}, 2));
}
