#include "moe/layer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <mutex>
#include <numeric>
#include <set>
#include <span>

#include "moe/balance.h"
#include "moe/by_parts.h"
#include "moe/dispatch.h"
#include "moe/padding.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "tensor/parse.h"

namespace moegrad {
namespace {

// Of a width and of the number of experts, which i32 numbers: products of two fit into 64 bits.
constexpr std::int64_t kMostSize = std::numeric_limits<std::int32_t>::max() - 1;

// Sets each given option where it is known: with the router, the estimator or the layer. `who` is
// what the first two are called.
void distribute(const std::map<std::string, std::string>& given, std::span<Options*> owners,
                const std::string& who) {
  for (const auto& [name, value] : given) {
    bool known = false;
    for (Options* owner : owners) {
      if (!owner->knows(name)) continue;
      owner->set(name, value);
      known = true;
    }
    if (known) continue;
    std::vector<std::string> names;
    for (const Options* o : owners) {
      for (const OptionSpec& spec : o->specs()) names.push_back(spec.name);
    }
    fail("option", "neither {} nor the layer has an option '{}'. Did you mean '{}'?", who, name,
         nearest(name, names));
  }
}

void require_by_parts(const EstimatorEntry& entry, const std::string& part) {
  if (entry.traits.by_parts) return;
  fail(
      "layer",
      "{} gives its router gradient and its expert gradient together and cannot be the {} gradient "
      "alone. Use it as the estimator.",
      entry.name, part);
}

void require_causal(const LayerConfig& config, const RouterEntry& router,
                    const Estimator& estimator) {
  if (!config.causal || config.force) return;
  if (!router.traits.causal) {
    fail("layer",
         "router {} looks at other tokens of the batch: a causal model would see the "
         "future. Choose another router, or force it.",
         router.name);
  }
  if (estimator.leaks()) {
    fail("layer",
         "estimator {} with these options gives a token what others computed: a causal "
         "model would see the future. Choose another, or force it.",
         config.estimator);
  }
}

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

void require_no_constant(const RouterEntry& router, const Options& own) {
  const RouterTraits& traits = router.traits;
  const auto refuse = [&](const char* name, bool constant) {
    if (!constant || own.number(name) == 0.0) return;
    fail(
        "layer",
        "{} is {}, and router {} {}: the loss would be a constant. Leave it out, or choose another "
        "router.",
        name, own.number(name), router.name, traits.constant_aux);
  };
  refuse("aux", traits.constant_aux[0] != '\0');
  refuse("z-loss", traits.constant_logits);
}

// The coefficients that are not 0 of the router's losses and the layer's.
std::string loss_text(const RouterEntry& router, const Options& router_options,
                      const Options& own) {
  std::string text;
  const auto add = [&](const Options& options, const std::string& name) {
    if (options.number(name) == 0.0) return;
    text += fmt::format("{}{}={}", text.empty() ? "" : ", ", name, options.number(name));
  };
  for (const std::string& name : router.traits.losses) add(router_options, name);
  add(own, "aux");
  add(own, "z-loss");
  return text.empty() ? "none" : text;
}

// Where the experts work on mixtures of tokens, or are mixed themselves, nothing is selected.
void require_selection(const LayerConfig& config, const Routing& routing) {
  if (!routing.rows.defined() && !routing.merge.defined()) return;
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

const std::vector<OptionSpec>& layer_options() {
  static const std::vector<OptionSpec> specs = {
      option::number("aux", "coefficient of the balance loss E sum_i f_i P_i of all choices")
          .initially("0")
          .from(0.0, 1e6),
      option::number("z-loss", "coefficient of the router z-loss").initially("0").from(0.0, 1e6),
      option::integer("shared", "shared experts, always on with weight 1")
          .initially("0")
          .from(0, 64)};
  return specs;
}

double default_aux(const RouterEntry& router) {
  const auto own = router.layer_options.find("aux");
  if (own == router.layer_options.end()) return 0.0;
  return parse_number<double>(own->second).value_or(0.0);
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
    if (size > kMostSize) fail("layer", "the {} is {}. Use {} at most.", what, size, kMostSize);
  }
  if (s.active < 1 || s.active > s.experts) {
    fail("layer", "k is {} with {} experts. Use 1 <= k <= {}.", s.active, s.experts, s.experts);
  }
  if (s.active < router.least_active) {
    fail("layer", "k is {}, too few for router {}. Use k >= {}.", s.active, router.name,
         router.least_active);
  }
  if (s.active > router.most_active) {
    fail("layer", "k is {}, too many for router {}. Use k <= {}.", s.active, router.name,
         router.most_active);
  }
  // The estimator, or the two whose parts stand for it.
  std::vector<const EstimatorEntry*> parts = {&estimator};
  if (!config_.router_gradient.empty() || !config_.expert_gradient.empty()) {
    const auto part = [&](const std::string& name, const char* kind) {
      const EstimatorEntry& entry = name.empty() ? estimator : estimator_entry(name);
      require_by_parts(entry, kind);
      return &entry;
    };
    parts = {part(config_.router_gradient, "router"), part(config_.expert_gradient, "expert")};
    if (parts[0] == parts[1]) parts.pop_back();
  }
  Options router_options("router " + router.name, router.options);
  Options own("layer", layer_options());
  std::vector<Options> part_options;
  for (const EstimatorEntry* part : parts) {
    if (part->traits.categorical && !router.traits.categorical && !config_.force) {
      fail("layer",
           "estimator {} is for a router that draws one expert with weight 1, and {} does "
           "not. Use --router categorical.",
           part->name, router.name);
    }
    part_options.emplace_back("estimator " + part->name, part->options);
  }
  for (const auto& [name, value] : router.layer_options) own.set(name, value);
  std::vector<Options*> owners = {&router_options, &own};
  for (Options& o : part_options) owners.push_back(&o);
  std::string who = "router " + router.name;
  for (const EstimatorEntry* part : parts) who += ", estimator " + part->name;
  distribute(config_.options, owners, who);
  router_ = router.make(router_options);
  router_->check(s);
  estimator_ = parts[0]->make(part_options[0]);
  if (parts.size() == 2) {
    estimator_ = by_parts(std::move(estimator_), parts[1]->make(part_options[1]));
  }
  if (!config_.force) {
    estimator_->check(s, router);
    require_no_constant(router, own);
  }
  require_causal(config_, router, *estimator_);
  auxiliary_ = own.number("aux");
  z_loss_ = own.number("z-loss");
  shared_ = own.integer("shared");
  losses_ = loss_text(router, router_options, own);
}

bool Layer::router_learns() const {
  const ConstantWeights constant = router_->constant_weights(config_.size);
  return constant == ConstantWeights::no ||
         !estimator_->weights_alone(constant == ConstantWeights::renormalised);
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

void Layer::declare(std::string_view prefix, Parameters& parameters, Rng& rng) const {
  const LayerSize& s = config_.size;
  const auto before = static_cast<std::ptrdiff_t>(parameters.size());
  router_->declare(s, prefix, parameters, rng);
  for (auto p = parameters.begin() + before; p != parameters.end(); ++p) p->router = true;
  estimator_->declare(s, prefix, parameters);
  const auto network = [&](const std::string& kind, std::int64_t count) {
    const std::string start = std::string(prefix) + kind + ".";
    const auto matrix = [&](const char* name, std::int64_t in, std::int64_t out) {
      const double bound = std::sqrt(1.0 / static_cast<double>(in));
      parameters.add(start + name, rng.uniform({count, in, out}, DType::f64, -bound, bound))
          .decays = true;
    };
    const auto bias = [&](const char* name, std::int64_t out) {
      if (config_.biases)
        parameters.add(start + name, Tensor::zeros({count, out}, DType::f64, Device::cpu));
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
  out.routing = router_->route(s, in);
  const Routing& r = out.routing;
  require_routing(config_.router, r);
  require_selection(config_, r);
  Experts routed = experts(in.weights, "experts");
  routed.form = estimator_->form;
  if (r.merge.defined()) routed = routed.merged(r.merge);
  out.plan = make_plan(r.selected, routed.count());
  Combined combined = estimator_->combine({r.rows.defined() ? r.rows : x, r, out.plan, routed, in});
  out.y = combined.y;
  if (r.mix.defined()) {
    const std::int64_t batch = r.mix.size(0);
    const Var rows = reshape(out.y, {batch, out.y.size(0) / batch, s.output});
    out.y = Sequences(in).join(matmul(r.mix, rows));
  }
  if (r.gain.defined()) out.y = out.y * r.gain;
  out.updates = r.updates;
  out.updates.insert(out.updates.end(), combined.updates.begin(), combined.updates.end());
  if (shared_ > 0) {
    const Plan plan = make_plan(every_expert(x.size(0), shared_, x.value().device()), shared_);
    out.y = out.y + combine(experts(in.weights, "shared")(x, plan), plan);
  }
  out.auxiliary = r.auxiliary;
  out.losses = r.losses;
  const auto add = [&](const char* name, double coefficient, Var loss) {
    out.losses.push_back({name, loss});
    const Var scaled = coefficient * loss;
    out.auxiliary = out.auxiliary.defined() ? out.auxiliary + scaled : scaled;
  };
  if (auxiliary_ > 0.0) add("aux", auxiliary_, switch_auxiliary(r));
  if (z_loss_ > 0.0) add("z-loss", z_loss_, z_loss(r));
  return out;
}

Var Layer::objective(Var losses, const LayerOutput& out, const LayerInput& in) const {
  const LayerInput tokens = without_padding(in);
  require_whole_copies(tokens, estimator_->samples());
  return estimator_->objective(tokens_alone(losses, out.mask), out.routing, tokens);
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
