#include "moe/layer.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <mutex>
#include <set>
#include <span>

#include "moe/balance.h"
#include "moe/convolution.h"
#include "moe/dispatch.h"
#include "moe/padding.h"
#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// What every router sets.
void require_routing(const std::string& router, const Routing& r) {
  const auto require = [&](bool defined, const char* field) {
    if (defined) return;
    fail("layer", "router {} leaves Routing::{} undefined. Set it in route().", router, field);
  };
  require(r.selected.defined(), "selected");
  require(r.weights.defined(), "weights");
  require(r.scores.defined(), "scores");
  require(r.logits.defined(), "logits");
}

// Where the experts work on mixtures of tokens, or are mixed themselves, nothing is selected.
void require_selection(const LayerConfig& config, std::int64_t zero, const Routing& routing) {
  if (!routing.rows.defined() && !routing.merge.defined()) return;
  if (zero > 0) {
    fail("layer",
         "zero is {}, and router {} selects no experts for a token. Leave zero out, or choose "
         "another router.",
         zero, config.router);
  }
  for (const std::string& name :
       {config.estimator, config.router_gradient, config.expert_gradient}) {
    if (name.empty() || name == "sparse") continue;
    fail("layer",
         "router {} is differentiable as it is, without a selection for estimator {} to pass. Use "
         "the estimator sparse.",
         config.router, name);
  }
}

}  // namespace

Layer::Layer(const LayerConfig& config) : config_(config), parts_(parts_of(config)) {}

bool Layer::router_learns() const {
  const ConstantWeights constant = parts_.router->constant_weights(routed_size(config_, parts_));
  return constant == ConstantWeights::no ||
         !parts_.estimator->weights_alone(constant == ConstantWeights::renormalised);
}

void Layer::say_where_silent() const {
  if (router_learns()) return;
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::scoped_lock lock(mutex);
  if (!said.insert(config_.router).second) return;
  const std::string text = fmt::format(
      "moegrad: [{}] with k = {} and these options the weights are constants, and estimator {} "
      "gives the router no gradient of the task.\n",
      config_.router, config_.size.active,
      config_.router_gradient.empty() ? config_.estimator : config_.router_gradient);
  std::fputs(text.c_str(), stderr);
}

void Layer::declare(std::string_view prefix, Parameters& parameters, const Rng& rng) const {
  const LayerSize& s = config_.size;
  const auto before = static_cast<std::ptrdiff_t>(parameters.size());
  parts_.router->declare(routed_size(config_, parts_), prefix, parameters, rng);
  for (auto p = parameters.begin() + before; p != parameters.end(); ++p) {
    p->router = true;
    if (parts_.similarity == 0.0 || p->name != std::string(prefix) + "router.weight") continue;
    p->value = orthogonal(p->value.size(0), p->value.size(1), 1.0, rng.named(p->name));
  }
  parts_.estimator->declare(s, prefix, parameters);
  const auto network = [&](const std::string& kind, std::int64_t count) {
    const std::string start = std::string(prefix) + kind + ".";
    const auto matrix = [&](const char* which, std::int64_t in, std::int64_t out) {
      const double bound = std::sqrt(1.0 / static_cast<double>(in));
      const std::string name = start + which;
      parameters.add(name, rng.named(name).uniform({count, in, out}, DType::f64, -bound, bound))
          .decays = true;
    };
    const auto bias = [&](const char* name, std::int64_t out) {
      if (config_.biases)
        parameters.add(start + name, Tensor::zeros({count, out}, DType::f64, Device::cpu));
    };
    if (config_.expert == ExpertKind::convolutional) {
      return declare_convolutional(s, count, start, parameters, rng);
    }
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
  if (parts_.shared > 0) network("shared", parts_.shared);
}

Experts Layer::experts(const Weights& weights, std::string_view kind) const {
  const std::string start = std::string(kind) + ".";
  Experts e;
  e.kind = config_.expert;
  e.activation = config_.activation;
  e.w1 = weights.at(start + "w1");
  e.w2 = weights.at(start + "w2");
  e.b1 = weights.find(start + "b1");
  e.b2 = weights.find(start + "b2");
  if (e.kind == ExpertKind::convolutional || e.activation == Activation::swiglu) {
    e.w3 = weights.at(start + "w3");
    e.b3 = weights.find(start + "b3");
  }
  return e;
}

LayerOutput Layer::forward(const LayerInput& in) const {
  const Var x = in.x;
  if (x.rank() != 2 || x.size(1) != config_.size.model) {
    fail("layer", "input is {}. It must be [tokens, {}].", x.shape(), config_.size.model);
  }
  if (x.size(0) == 0) fail("layer", "the batch has 0 tokens. Give at least one.");
  if (in.sequence < 1 || x.size(0) % in.sequence != 0) {
    fail("layer", "{} tokens do not divide into sequences of {}. Give whole sequences.", x.size(0),
         in.sequence);
  }
  const LayerInput tokens = without_padding(in);
  LayerOutput out = forward_tokens(tokens);
  out.x = x;
  out.mask = tokens.mask;
  out.y = with_padding(out.y, out.mask);
  return out;
}

LayerOutput Layer::forward_tokens(const LayerInput& in) const {
  const LayerSize& s = config_.size;
  const Var x = in.x;
  LayerOutput out;
  out.routing = parts_.router->route(routed_size(config_, parts_), in);
  const Routing& r = out.routing;
  require_routing(config_.router, r);
  require_selection(config_, parts_.zero, r);
  Experts routed = experts(in.weights, "experts");
  routed.form = parts_.estimator->form;
  if (r.merge.defined()) routed = routed.merged(r.merge);
  Routing others;  // choices, without zero experts
  Var of_zero_experts;
  if (parts_.zero > 0) {
    others = r;
    of_zero_experts = without_zero_experts(x, others);
  }
  const Routing& own = parts_.zero > 0 ? others : r;
  out.plan = make_plan(own.selected, routed.count(), r.most);
  Combined combined =
      parts_.estimator->combine({r.rows.defined() ? r.rows : x, own, out.plan, routed, in});
  out.y = combined.y;
  if (of_zero_experts.defined()) out.y = out.y + of_zero_experts;
  if (r.mix.defined()) {
    const std::int64_t batch = r.mix.size(0);
    const Var rows = reshape(out.y, {batch, out.y.size(0) / batch, s.output});
    out.y = Sequences(in).join(matmul(r.mix, rows));
  }
  if (r.gain.defined()) out.y = out.y * r.gain;
  out.updates = r.updates;
  out.updates.insert(out.updates.end(), combined.updates.begin(), combined.updates.end());
  if (parts_.shared > 0) {
    const Plan plan =
        make_plan(every_expert(x.size(0), parts_.shared, x.value().device()), parts_.shared);
    out.y = out.y + combine(experts(in.weights, "shared")(x, plan), plan);
  }
  out.auxiliary = r.auxiliary;
  out.losses = r.losses;
  const auto add = [&](const char* name, double coefficient, Var loss) {
    out.losses.push_back({name, loss});
    const Var scaled = coefficient * loss;
    out.auxiliary = out.auxiliary.defined() ? out.auxiliary + scaled : scaled;
  };
  if (parts_.auxiliary > 0.0) add("aux", parts_.auxiliary, switch_auxiliary(r));
  if (parts_.z_loss > 0.0) add("z-loss", parts_.z_loss, z_loss(r));
  if (parts_.similarity > 0.0) {
    add("simbal", parts_.similarity, similarity_loss(in.weights.at("router.weight")));
  }
  if (parts_.coupling > 0.0) {
    Coupling how = parts_.how_coupled;
    how.noise = in.training;
    const Var columns = slice(in.weights.at("router.weight"), 1, 0, s.experts);
    add("erc", parts_.coupling, coupling_loss(columns, in.weights.at("experts.w1"), how));
  }
  return out;
}

// Takes the experts from E on out of the choices: x times the sum of their weights, for each token.
Var Layer::without_zero_experts(Var x, Routing& routing) const {
  const Tensor ids = routing.selected;
  const Tensor last = scalar_like(ids, static_cast<double>(config_.size.experts - 1));
  const Tensor is_zero = greater(ids, last);
  routing.selected = where(is_zero, scalar_like(ids, -1.0), ids);
  const Var weights = where(is_zero, routing.weights, constant_like(routing.weights, {}, 0.0));
  return x * sum(weights, 1, true);
}

Var Layer::objective(Var losses, const LayerOutput& out, const LayerInput& in) const {
  const LayerInput tokens = without_padding(in);
  require_whole_copies(tokens, parts_.estimator->samples());
  return parts_.estimator->objective(tokens_alone(losses, out.mask), out.routing, tokens);
}

double dropped_share(double dropped, std::span<const double> load) {
  if (dropped == 0.0) return 0.0;
  double kept = 0.0;
  for (const double slots : load) kept += slots;
  return dropped / (dropped + kept);
}

Tensor LayerOutput::dropped() const {
  const Tensor& selected = routing.selected;
  if (!routing.choice.defined()) return Tensor::zeros({}, DType::f64, selected.device());
  const auto choices = [&](const Tensor& ids) {
    return reduce_rows(Reduction::sum, expert_counts(ids, routing.scores.size(1))).reshape({});
  };
  // Where all experts run they are more than those that are counted.
  const Tensor lost = compute<functor::Sub>(choices(routing.choice), choices(selected));
  return compute<functor::Clamp>(lost, {0.0, std::numeric_limits<double>::infinity()});
}

Tensor LayerOutput::experts_of_a_token() const {
  const Tensor load = expert_load();
  const Tensor all = reduce_rows(Reduction::sum, load.reshape({1, load.numel()}));
  const double tokens = static_cast<double>(plan.tokens);
  return compute<functor::Affine>(all, {1.0 / tokens, 0.0}).reshape({});
}

Tensor LayerOutput::expert_load() const {
  if (routing.merge.defined()) {
    const Tensor weights = routing.merge.value().to(DType::f64);
    const Tensor load = weights.like({weights.size(1)});
    kernels(load.device())
        .reduce(Reduction::sum, weights, {1, weights.size(0), weights.size(1)}, load);
    return load;
  }
  const Tensor offsets = plan.offsets().to(DType::f64);
  const Tensor load = offsets.rows(1, plan.experts + 1).clone();
  kernels(load.device()).accumulate(-1.0, offsets.rows(0, plan.experts), load);
  return load;
}

}  // namespace moegrad
