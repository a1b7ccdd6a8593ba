#include "moe/layer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "moe/balance.h"
#include "moe/dispatch.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// Sets each given option where it is known: with the router, the estimator or the layer.
void distribute(const std::map<std::string, std::string>& given, std::array<Options*, 3> owners) {
  for (const auto& [name, value] : given) {
    const auto owner = std::find_if(owners.begin(), owners.end(),
                                    [&, &key = name](Options* o) { return o->knows(key); });
    if (owner != owners.end()) {
      (*owner)->set(name, value);
      continue;
    }
    std::vector<std::string> names;
    for (const Options* o : owners) {
      for (const OptionSpec& spec : o->specs()) names.push_back(spec.name);
    }
    fail("option", "neither router, estimator nor layer has an option '{}'. Did you mean '{}'?",
         name, nearest(name, names));
  }
}

Plan all_to_all(std::int64_t tokens, std::int64_t experts) {
  const Tensor selected = Tensor::empty({tokens, experts}, DType::i32);
  const std::span<std::int32_t> ids = selected.values<std::int32_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(experts));
  }
  return make_plan(selected, experts);
}

}  // namespace

const std::vector<OptionSpec>& layer_options() {
  static const std::vector<OptionSpec> specs = {
      {"aux", OptionSpec::Kind::number, "0", "coefficient of the switch auxiliary loss", 0.0, 1e6},
      {"z-loss", OptionSpec::Kind::number, "0", "coefficient of the router z-loss", 0.0, 1e6},
      {"shared", OptionSpec::Kind::integer, "0", "shared experts, always on with weight 1", 0, 64}};
  return specs;
}

Layer::Layer(const LayerConfig& config) : config_(config) {
  const LayerSize& s = config_.size;
  const RouterEntry& router = router_entry(config_.router);
  const EstimatorEntry& estimator = estimator_entry(config_.estimator);
  for (const auto& [what, size] : {std::pair("width", s.model),
                                   {"hidden width", s.hidden},
                                   {"output width", s.output},
                                   {"number of experts", s.experts}}) {
    if (size < 1) fail("layer", "the {} is {}. It must be at least 1.", what, size);
  }
  if (s.active < 1 || s.active > s.experts) {
    fail("layer", "k is {} with {} experts. Use 1 <= k <= {}.", s.active, s.experts, s.experts);
  }
  Options router_options("router " + router.name, router.options);
  Options estimator_options("estimator " + estimator.name, estimator.options);
  Options own("layer", layer_options());
  distribute(config_.options, {&router_options, &estimator_options, &own});
  router_ = router.make(router_options);
  router_->check(s);
  estimator_ = estimator.make(estimator_options);
  auxiliary_ = own.number("aux");
  z_loss_ = own.number("z-loss");
  shared_ = own.integer("shared");
}

void Layer::declare(std::string_view prefix, Parameters& parameters, Rng& rng) const {
  const LayerSize& s = config_.size;
  router_->declare(s, prefix, parameters, rng);
  const auto network = [&](const std::string& kind, std::int64_t count) {
    const std::string start = std::string(prefix) + kind + ".";
    const auto matrix = [&](const char* name, std::int64_t in, std::int64_t out) {
      const double bound = std::sqrt(1.0 / static_cast<double>(in));
      parameters.add(start + name, rng.uniform({count, in, out}, DType::f64, -bound, bound));
    };
    const auto bias = [&](const char* name, std::int64_t out) {
      if (config_.biases) parameters.add(start + name, Tensor::zeros({count, out}, DType::f64));
    };
    matrix("w1", s.model, s.hidden);
    bias("b1", s.hidden);
    if (config_.activation == Activation::swiglu) {
      matrix("w3", s.model, s.hidden);
      bias("b3", s.hidden);
    }
    matrix("w2", s.hidden, s.output);
    bias("b2", s.output);
  };
  network("experts", s.experts);
  if (shared_ > 0) network("shared", shared_);
}

Experts Layer::experts(const Weights& weights, std::string_view kind) const {
  const std::string start = std::string(kind) + ".";
  Experts e;
  e.activation = config_.activation;
  e.w1 = weights.at(start + "w1");
  e.w2 = weights.at(start + "w2");
  if (config_.activation == Activation::swiglu) e.w3 = weights.at(start + "w3");
  e.b1 = weights.find(start + "b1");
  e.b2 = weights.find(start + "b2");
  if (config_.activation == Activation::swiglu) e.b3 = weights.find(start + "b3");
  return e;
}

LayerOutput Layer::forward(Var x, const Weights& weights, bool training) const {
  const LayerSize& s = config_.size;
  if (x.rank() != 2 || x.size(1) != s.model) {
    fail("layer", "input is {}. It must be [tokens, {}].", x.shape(), s.model);
  }
  if (x.size(0) == 0) fail("layer", "the batch has 0 tokens. Give at least one.");
  LayerOutput out;
  out.routing = router_->route(s, x, weights, training);
  out.plan = make_plan(out.routing.selected, s.experts);
  const Experts routed = experts(weights, "experts");
  out.y = estimator_->combine({x, out.routing, out.plan, routed, training});
  if (shared_ > 0) {
    const Plan plan = all_to_all(x.size(0), shared_);
    out.y = out.y + combine(experts(weights, "shared")(dispatch(x, plan), plan), plan);
  }
  const auto add = [&](Var loss) {
    out.auxiliary = out.auxiliary.defined() ? out.auxiliary + loss : loss;
  };
  if (out.routing.auxiliary.defined()) add(out.routing.auxiliary);
  if (auxiliary_ > 0.0) add(auxiliary_ * switch_auxiliary(out.routing));
  if (z_loss_ > 0.0) add(z_loss_ * z_loss(out.routing));
  return out;
}

}  // namespace moegrad
