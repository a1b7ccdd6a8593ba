#include "moe/layer_config.h"

#include <limits>
#include <span>
#include <utility>

#include "moe/by_parts.h"
#include "moe/convolution.h"
#include "moe/registry.h"
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

// Losses of the columns of the router's matrix.
void require_router_columns(const RouterEntry& router, const Options& own) {
  for (const char* const name : {"simbal", "erc"}) {
    if (own.number(name) == 0.0 || router.traits.linear) continue;
    fail("layer",
         "{} is {}, and the logits of router {} are not x W + b: there is no column for an expert. "
         "Leave it out, or choose another router.",
         name, own.number(name), router.name);
  }
}

// What a token's own x takes part in.
void require_zero_experts(const LayerConfig& config, std::int64_t zero) {
  if (zero == 0) return;
  const LayerSize& s = config.size;
  if (s.output != s.model) {
    fail("layer",
         "zero is {} and the output has {} of {} features: an expert that returns x needs "
         "as many. Leave zero out.",
         zero, s.output, s.model);
  }
  for (const std::string& name :
       {config.estimator, config.router_gradient, config.expert_gradient}) {
    if (name.empty() || name == "sparse") continue;
    fail("layer",
         "zero is {}, and estimator {} knows no experts that return x. Use the estimator sparse.",
         zero, name);
  }
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
  for (const char* const name : {"z-loss", "simbal", "erc"}) add(own, name);
  return text.empty() ? "none" : text;
}

void require_sizes(const LayerSize& s, const RouterEntry& router) {
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
}

// The estimator, or the two whose parts stand for it.
std::vector<const EstimatorEntry*> estimators_of(const LayerConfig& config,
                                                 const RouterEntry& router) {
  const EstimatorEntry& estimator = estimator_entry(config.estimator);
  std::vector<const EstimatorEntry*> parts = {&estimator};
  if (!config.router_gradient.empty() || !config.expert_gradient.empty()) {
    const auto part = [&](const std::string& name, const char* kind) {
      const EstimatorEntry& entry = name.empty() ? estimator : estimator_entry(name);
      require_by_parts(entry, kind);
      return &entry;
    };
    parts = {part(config.router_gradient, "router"), part(config.expert_gradient, "expert")};
    if (parts[0] == parts[1]) parts.pop_back();
  }
  for (const EstimatorEntry* part : parts) {
    if (!part->traits.categorical || router.traits.categorical || config.force) continue;
    fail("layer",
         "estimator {} is for a router that draws one expert with weight 1, and {} does "
         "not. Use --router categorical.",
         part->name, router.name);
  }
  return parts;
}

void require_images(const LayerConfig& config, const LayerParts& parts) {
  static_cast<void>(ConvolutionSize(config.size.model));
  if (parts.coupling == 0.0) return;
  fail("layer",
       "erc is {}, of experts that are matrices, and these are convolutional. Leave it out.",
       parts.coupling);
}

// The options given, each with whom it belongs to.
struct OptionsOfParts {
  Options router;
  Options layer;
  std::vector<Options> estimators;
};

OptionsOfParts options_of(const LayerConfig& config, const RouterEntry& router,
                          const std::vector<const EstimatorEntry*>& estimators) {
  OptionsOfParts all{
      Options("router " + router.name, router.options), Options("layer", layer_options()), {}};
  std::string who = "router " + router.name;
  for (const EstimatorEntry* e : estimators) {
    all.estimators.emplace_back("estimator " + e->name, e->options);
    who += ", estimator " + e->name;
  }
  for (const auto& [name, value] : router.layer_options) all.layer.set(name, value);
  std::vector<Options*> owners = {&all.router, &all.layer};
  for (Options& o : all.estimators) owners.push_back(&o);
  distribute(config.options, owners, who);
  return all;
}

}  // namespace

Shape first_shape(const LayerConfig& config) {
  const LayerSize& s = config.size;
  if (config.expert == ExpertKind::network) return {s.experts, s.model, s.hidden};
  return {s.experts, kFirstFilters, 1, kFilterSide, kFilterSide};
}

LayerSize routed_size(const LayerConfig& config, const LayerParts& parts) {
  LayerSize size = config.size;
  size.experts += parts.zero;
  return size;
}

const std::vector<OptionSpec>& layer_options() {
  static const std::vector<OptionSpec> specs = {
      option::number("aux", "coefficient of the balance loss E sum_i f_i P_i of all choices")
          .initially("0")
          .from(0.0, 1e6),
      option::number("z-loss", "coefficient of the router z-loss").initially("0").from(0.0, 1e6),
      option::number("simbal",
                     "coefficient of sum |W^T W - 1| of the router's matrix, which then "
                     "begins orthogonal")
          .initially("0")
          .from(0.0, 1e6),
      option::number("erc", "coefficient of the expert-router coupling loss")
          .initially("0")
          .from(0.0, 1e6),
      option::number("erc-alpha", "how much less than its own another expert may answer")
          .initially("1")
          .from(0.0, 1e6),
      option::flag("erc-normalised",
                   "the coupling loss is of directions: it does not fall by "
                   "smaller matrices"),
      option::integer("shared", "shared experts, always on with weight 1")
          .initially("0")
          .from(0, 64),
      option::integer("zero", "experts besides that return x, which the router chooses from")
          .initially("0")
          .from(0, 1e6)};
  return specs;
}

double default_aux(const RouterEntry& router) {
  const auto own = router.layer_options.find("aux");
  if (own == router.layer_options.end()) return 0.0;
  return parse_number<double>(own->second).value_or(0.0);
}

LayerParts parts_of(const LayerConfig& config) {
  const RouterEntry& router = router_entry(config.router);
  static_cast<void>(estimator_entry(config.estimator));  // its error comes before those of sizes
  require_sizes(config.size, router);
  const std::vector<const EstimatorEntry*> estimators = estimators_of(config, router);
  const OptionsOfParts options = options_of(config, router, estimators);
  LayerParts parts{
      .router = router.make(options.router),
      .estimator = estimators[0]->make(options.estimators[0]),
      .auxiliary = options.layer.number("aux"),
      .z_loss = options.layer.number("z-loss"),
      .similarity = options.layer.number("simbal"),
      .coupling = options.layer.number("erc"),
      .how_coupled = {options.layer.number("erc-alpha"), options.layer.flag("erc-normalised")},
      .shared = options.layer.integer("shared"),
      .zero = options.layer.integer("zero"),
      .losses = loss_text(router, options.router, options.layer)};
  require_router_columns(router, options.layer);
  require_zero_experts(config, parts.zero);
  if (config.expert == ExpertKind::convolutional) require_images(config, parts);
  parts.router->check(routed_size(config, parts));
  if (estimators.size() == 2) {
    parts.estimator =
        by_parts(std::move(parts.estimator), estimators[1]->make(options.estimators[1]));
  }
  if (!config.force) {
    parts.estimator->check(config.size, router);
    require_no_constant(router, options.layer);
  }
  require_causal(config, router, *parts.estimator);
  return parts;
}

}  // namespace moegrad
