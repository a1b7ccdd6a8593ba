#include "moe/checks/check.h"

#include <algorithm>
#include <cmath>

#include "autograd/poison.h"
#include "moe/checks/moments.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

std::string text(const OptionMap& options) {
  std::string out;
  for (const auto& [name, value] : options) out += ", " + name + "=" + value;
  return out;
}

LayerConfig config_of(const RouterEntry& router, const std::string& estimator,
                      const OptionMap& options) {
  LayerConfig config;
  config.size = {3, 4, 2, 4, std::min<std::int64_t>(2, router.most_active)};
  config.router = router.name;
  config.estimator = estimator;
  config.activation = Activation::silu;  // smooth: no wall but the selection's
  config.options = options;
  config.force = true;
  return config;
}

constexpr std::int64_t kRouterTokens = 6;
constexpr std::int64_t kEstimatorTokens = 7;
constexpr std::int64_t kManyTokens = 11;

// The same with as few active experts as its router works with.
LayerConfig with_fewest(LayerConfig config) {
  config.size.active = router_entry(config.router).least_active;
  return config;
}

// y (or the auxiliary loss) of a fixture as a program of its values.
Program program_of(const LayerFixture& fixture, bool auxiliary) {
  return [&fixture, auxiliary](Tape&, std::span<const Var> in) {
    Weights weights;
    const LayerOutput out = Layer(fixture.config).forward(fixture.input(in, weights));
    return to(auxiliary ? out.auxiliary : out.y, Device::cpu);
  };
}

// How an input is moved, and what is said where rounding hides its gradient.
enum class Depth {
  elements,    // each by itself
  directions,  // all of it, in a few directions
  edges,       // the same; a gradient that is hidden there is not held against the entry
};

// Each element with the defaults alone: with other options a direction sees what differs.
Depth depth_for(const OptionMap& options) {
  return options.empty() ? Depth::elements : Depth::directions;
}

void check_replayed(const LayerFixture& fixture, const std::string& label, Claim claim, Depth depth,
                    CheckRow& row, const Mutation* mutation = nullptr) {
  GradcheckOptions options;
  options.hold = held_for(claim);
  options.names = fixture.names;
  options.mutation = mutation;
  options.rng = Rng{17, 0, 0};
  if (depth != Depth::elements) {
    options.elementwise_limit = 0;
    options.directions = 3;
    options.cotangents = 2;
  }
  const auto note = [&](const GradcheckReport& report, const std::string& what) {
    if (depth != Depth::edges || report.verdict == Verdict::fail) row.note(report, what);
  };
  const GradcheckReport y = gradcheck(program_of(fixture, false), fixture.values, options);
  note(y, label);
  row.count_dead(y);
  Tape tape({.rng = Rng{17, 0, 0}});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) leaves.push_back(tape.constant(value));
  Weights weights;
  const Layer layer(fixture.config);
  if (!layer.forward(fixture.input(leaves, weights)).auxiliary.defined()) return;
  note(gradcheck(program_of(fixture, true), fixture.values, options), label + ", auxiliary loss");
}

// Fused against written out, on the same decisions.
void check_forms(const LayerFixture& fixture, const std::string& label, CheckRow& row,
                 const Mutation* mutation) {
  PassOptions options;
  options.given = decisions_of(fixture);
  options.form = Form::written;
  const LayerPass written = run_pass(fixture, options);
  options.form = Form::fused;
  options.mutation = mutation;
  const LayerPass fused = run_pass(fixture, options);
  row.note(close(fused.y, written.y, 1e-12), label + ": fused and written out differ in y");
  for (std::size_t i = 0; i < fixture.names.size(); ++i) {
    row.note(close(fused.gradients[i], written.gradients[i], 1e-12, written.rounding[i]),
             label + ": fused and written out differ in the gradient of " + fixture.names[i]);
  }
}

// Claim and forms with more of all: 11 tokens, 9 experts, k = 3 where the router permits.
void check_larger(LayerConfig config, Claim claim, Device device, CheckRow& row) {
  const RouterEntry& router = router_entry(config.router);
  config.size = {3, 2, 2, 9, std::clamp<std::int64_t>(3, router.least_active, router.most_active)};
  if (!config.options.empty() && is_refused(config, kManyTokens)) return;  // groups of experts, say
  for (const bool training : {true, false}) {
    const LayerFixture fixture = on(device, random_fixture(config, kManyTokens, training));
    const std::string label =
        config.router + ", 9 experts" + text(config.options) + ", " + fixture.label;
    ++row.cases;
    check_replayed(fixture, label, claim, Depth::directions, row);
    check_forms(fixture, label, row, nullptr);
  }
}

// The claim on the edges: k = 1, k = E, one token, an empty expert, logits of 1e4. At a tie there
// are no differences.
void check_claim_on_edges(const LayerConfig& config, Claim claim, Device device, CheckRow& row) {
  for (const LayerFixture& edge : edge_fixtures(config)) {
    if (!edge.permutable) continue;
    const LayerFixture fixture = on(device, edge);
    const std::string label = config.router + ", " + fixture.label;
    ++row.cases;
    check_replayed(fixture, label, claim, Depth::edges, row);
  }
}

// An estimator where a capacity has dropped choices, two for each token where it permits that.
void check_dropped(const EstimatorEntry& entry, Device device, CheckRow& row) {
  const auto with = [&](const char* router, const OptionMap& options) {
    return config_of(router_entry(router), entry.name, options);
  };
  LayerConfig config = with("gshard", {{"capacity", "0.5"}, {"capacity-min", "1"}});
  if (is_refused(config, kEstimatorTokens)) {
    config = with("switch", {{"capacity", "0.5"}, {"eval-capacity", "0.5"}, {"capacity-min", "1"}});
  }
  for (const bool training : {true, false}) {
    const LayerFixture fixture = on(device, random_fixture(config, kEstimatorTokens, training));
    const std::string label = config.router + ", dropped choices, " + fixture.label;
    ++row.cases;
    check_replayed(fixture, label, entry.claim, Depth::directions, row);
    check_forms(fixture, label, row, nullptr);
  }
}

// The enumerated moments against the recorded figures.
void check_recorded(const RouterEntry& entry, CheckRow& row) {
  row.note(!entry.recorded.empty(), "no recorded figures");
  for (const RecordedBias& r : entry.recorded) {
    Options options("router " + entry.name, entry.options);
    std::string label;
    for (const auto& [name, value] : r.options) {
      options.set(name, value);
      label += ", " + name + "=" + value;
    }
    const RouterMoments m = router_moments(*entry.make(options), recorded_logits(r.experts),
                                           recorded_outcomes(r.experts), r.active);
    const auto same = [](double a, double b) { return std::abs(a - b) <= 1e-9; };
    ++row.cases;
    row.note(same(m.weight_bias_l1, r.weight_bias_l1) && same(m.weight_mse, r.weight_mse) &&
                 same(m.gradient_bias, r.gradient_bias) &&
                 same(m.gradient_variance, r.gradient_variance),
             fmt::format("{} of {} experts{}: enumerated {{{:.12f}, {:.12f}, {:.12f}, {:.12f}}}, "
                         "recorded {{{:.12f}, {:.12f}, {:.12f}, {:.12f}}}",
                         r.active, r.experts, label, m.weight_bias_l1, m.weight_mse,
                         m.gradient_bias, m.gradient_variance, r.weight_bias_l1, r.weight_mse,
                         r.gradient_bias, r.gradient_variance));
  }
}

// Over all outcomes: E[w] = softmax, and the mean router gradient of a loss linear in the weights
// is the dense layer's.
void check_unbiased(const RouterEntry& entry, const std::vector<OptionMap>& all, CheckRow& row) {
  for (const auto& [experts, active] :
       {std::pair<std::int64_t, std::int64_t>{4, 2}, {5, 3}, {9, 3}}) {
    if (entry.noise && experts > 5) continue;  // too many nodes
    for (const OptionMap& variant : all) {
      Options options("router " + entry.name, entry.options);
      for (const auto& [name, value] : variant) options.set(name, value);
      const std::vector<double> logits = recorded_logits(experts);
      const std::vector<NoiseNode> noise =
          entry.noise ? entry.noise(logits, active) : std::vector<NoiseNode>{};
      const RouterMoments m =
          router_moments(*entry.make(options), logits, recorded_outcomes(experts), active, noise);
      ++row.cases;
      row.error(std::max(m.weight_bias_l1, m.gradient_bias));
      row.note(m.weight_bias_l1 < 1e-10 && m.gradient_bias < 1e-10,
               fmt::format("{} of {} experts{}: over {} outcomes ||E[w] - g||_1 = {:.3e}, and the "
                           "mean gradient is {:.3e} from the dense one",
                           active, experts, text(variant), m.outcomes, m.weight_bias_l1,
                           m.gradient_bias));
    }
  }
}

// k = E: the dense softmax layer, in value and every gradient.
void check_against_dense(const LayerConfig& config, const std::string& label, CheckRow& row,
                         const Mutation* mutation, Device device) {
  LayerConfig all = config;
  all.size.active = all.size.experts;
  LayerConfig dense = all;
  dense.router = "softmax";
  dense.estimator = "sparse";
  dense.options.clear();
  PassOptions options;
  options.mutation = mutation;
  const LayerPass mine = run_pass(on(device, random_fixture(all, 5, true)), options);
  const LayerPass theirs = run_pass(random_fixture(dense, 5, true));
  row.note(close(mine.y, theirs.y, 1e-12), label + ": with k = E not the dense layer");
  for (std::size_t i = 0; i < mine.gradients.size(); ++i) {
    row.note(close(mine.gradients[i], theirs.gradients[i], 1e-11, theirs.rounding[i]),
             label + ": with k = E not the dense layer's gradient");
  }
}

// A claim that nothing here could show.
void refuse_claim(Claim claim, const char* of, CheckRow& row) {
  row.note(Verdict::fail,
           fmt::format("{} cannot claim to be {}: no oracle is known.", of, name_of(claim)));
}

// A mutant is dead at its first failure.
bool settled(const CheckRow& row, const Mutation* mutation) {
  return mutation != nullptr && row.verdict == Verdict::fail;
}

std::string oracle_text(Claim claim) {
  switch (claim) {
    case Claim::exact:
      return "differences of the forward pass";
    case Claim::exact_on_cell:
      return "differences with the selection replayed";
    case Claim::surrogate:
      return "differences of the surrogate, replayed; fused = written out";
    case Claim::unbiased:
      return "enumerated (noise: integrated) mean = the exact one; differences, draws replayed";
    case Claim::biased_order:
      return "enumerated mean exact up to its degree, wrong above; differences, draws replayed";
    default:
      return "enumerated bias and variance = recorded; differences, draws replayed";
  }
}

template <class Entry, class Body>
CheckRow checked(const Entry& entry, const char* kind, Body body) {
  CheckRow row;
  row.name = entry.name;
  row.kind = kind;
  row.claim = name_of(entry.claim);
  row.oracle = oracle_text(entry.claim);
  const Poison poison;
  try {
    body(row);
  } catch (const Interruption&) {
    throw;
  } catch (const std::exception& e) {
    row.note(Verdict::fail, e.what());
  }
  row.note(row.cases > 0, "there are no cases: an estimator needs a router to be checked with");
  return row;
}

}  // namespace

CheckRow check_router(const RouterEntry& entry, const Mutation* mutation, Device device) {
  return checked(entry, "router", [&](CheckRow& row) {
    if (entry.claim == Claim::biased_order) refuse_claim(entry.claim, "a router", row);
    const auto with = [&](const OptionMap& o) { return config_of(entry, "sparse", o); };
    const LayerConfig defaults = with({});
    const std::vector<OptionMap> own =
        variants(entry.options, entry.traits.losses, kRouterTokens, with, row);
    std::vector<OptionMap> all = own;
    all.push_back({{"aux", "0.3"}, {"z-loss", "0.2"}, {"shared", "1"}});
    for (const OptionMap& options : all) {
      for (const bool training : {true, false}) {
        const LayerFixture fixture =
            on(device, random_fixture(with(options), kRouterTokens, training));
        ++row.cases;
        const std::string label = fixture.label + text(options);
        check_replayed(fixture, label, entry.claim, depth_for(options), row, mutation);
        if (mutation == nullptr) check_fields(fixture, label, row);
        if (settled(row, mutation)) return;
      }
      if (mutation == nullptr) check_learns(with_fewest(with(options)), row);
    }
    check_edges(defaults, entry.traits, {}, row, mutation, device);
    if (mutation == nullptr) {
      LayerFixture dropless = on(device, random_fixture(defaults, kRouterTokens, false));
      dropless.dropless = true;
      ++row.cases;
      check_fields(dropless, "inference, dropless", row);
      check_replayed(dropless, "inference, dropless", entry.claim, Depth::directions, row);
      for (const OptionMap& options : own) check_larger(with(options), entry.claim, device, row);
      check_claim_on_edges(defaults, entry.claim, device, row);
      check_traits(entry, defaults, row);
    }
    if (entry.claim == Claim::documented) check_recorded(entry, row);
    if (entry.claim == Claim::unbiased) check_unbiased(entry, own, row);
  });
}

CheckRow check_estimator(const EstimatorEntry& entry, const Mutation* mutation, Device device) {
  return checked(entry, "estimator", [&](CheckRow& row) {
    if (entry.claim == Claim::documented) refuse_claim(entry.claim, "an estimator", row);
    check_entry(entry, row);
    if (entry.routers.empty()) return;
    std::vector<std::pair<std::string, OptionMap>> routers_to_try;
    for (const std::string& router : entry.routers) {
      routers_to_try.emplace_back(router, OptionMap{});
      if (router == "top-k") routers_to_try.push_back({"top-k", {{"renormalise", "true"}}});
    }
    const auto with_first = [&](const OptionMap& o) {
      return config_of(router_entry(entry.routers.front()), entry.name, o);
    };
    for (const OptionMap& options :
         variants(entry.options, {}, kEstimatorTokens, with_first, row)) {
      for (const auto& [router, router_options] : routers_to_try) {
        OptionMap merged = options;
        merged.insert(router_options.begin(), router_options.end());
        const LayerConfig config = config_of(router_entry(router), entry.name, merged);
        const std::string label = router + text(merged);
        for (const bool training : {true, false}) {
          const LayerFixture fixture =
              on(device, random_fixture(config, kEstimatorTokens, training));
          ++row.cases;
          check_replayed(fixture, label, entry.claim, depth_for(options), row, mutation);
          check_forms(fixture, label, row, mutation);
          if (settled(row, mutation)) return;
        }
        // The weighted cotangent is not the dense layer's by design, whatever k is.
        if (router == "top-k" && router_options.empty() && !options.contains("cotangent")) {
          check_against_dense(config, label, row, mutation, device);
        }
        if (mutation != nullptr) continue;
        check_traits(entry, config, row);
        check_learns(config, row);
        check_learns(with_fewest(config), row);
      }
      if (!options.empty() && mutation == nullptr) {
        check_larger(with_first(options), entry.claim, device, row);
      }
      if (options.empty() && mutation == nullptr) {
        for (const std::string& router : entry.routers) {
          const LayerConfig config = config_of(router_entry(router), entry.name, {});
          check_larger(config, entry.claim, device, row);
          check_claim_on_edges(config, entry.claim, device, row);
        }
        if (!entry.traits.categorical) check_dropped(entry, device, row);
      }
      const bool ordered = entry.claim == Claim::biased_order && options.empty();
      if (ordered || entry.claim == Claim::unbiased) check_order(entry, options, row);
      for (const std::string& router : entry.routers) {
        const RouterEntry& with = router_entry(router);
        check_edges(config_of(with, entry.name, options), with.traits, entry.traits, row, mutation,
                    device);
        if (settled(row, mutation)) return;
      }
    }
  });
}

}  // namespace moegrad
