// What a router's traits say, held against what it does.

#include <cmath>
#include <set>

#include "moe/balance.h"
#include "moe/checks/check.h"
#include "moe/checks/moments.h"

namespace moegrad {
namespace {

constexpr double kSlope = 1e-10;  // of a loss that is no constant

// One routing of a fixture's tokens.
struct Routed {
  Tensor selected, weights, logits;
  Tensor merge = {}, mix = {};
  std::uint64_t numbers = 0;  // taken from the tape's generator
  std::uint64_t draws = 0;    // that were enumerated
};

Tensor value_or_none(Var v) { return v.defined() ? v.value() : Tensor(); }
bool same_bits(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || a.same_bits(b));
}

class TraitCheck {
 public:
  TraitCheck(const RouterEntry& entry, const LayerConfig& config, CheckRow& row)
      : entry_(entry), traits_(entry.traits), config_(config), row_(row), router_(made({})) {}

  void run() {
    const LayerFixture training = random_fixture(config_, 5, true);
    const LayerFixture inference = random_fixture(config_, 5, false);
    linear(training, inference);
    for (const LayerFixture* f : {&training, &inference}) {
      if (traits_.causal) causal(*f);
      sparse(*f);
    }
    draws(training);
    const Routed once = route(inference, 1);
    note(once.numbers == 0 && same(once, route(inference, 2)),
         "it draws at inference. Draw in training only");
    losses();
    constants(training);
    categorical(training);
    check_state(declared(*router_, config_.size), traits_.state, row_);
  }

 private:
  void note(bool ok, const std::string& what) { row_.note(ok, "traits: " + what); }

  std::unique_ptr<Router> made(const std::map<std::string, std::string>& given) const {
    Options options("router " + entry_.name, entry_.options);
    for (const auto& [name, value] : given) options.set(name, value);
    return entry_.make(options);
  }

  Routed route(const LayerFixture& f, std::uint64_t seed, Decisions* decisions = nullptr) const {
    Tape tape({.gradients = false, .rng = Rng{seed, 0, 0}, .decisions = decisions});
    std::vector<Var> leaves;
    for (const Tensor& value : f.values) leaves.push_back(tape.constant(value));
    Weights weights;
    const Routing r = router_->route(f.config.size, f.input(leaves, weights));
    return {r.selected,
            r.weights.value(),
            r.logits.value(),
            value_or_none(r.merge),
            value_or_none(r.mix),
            tape.rng().position,
            decisions == nullptr ? 0 : decisions->draws()};
  }

  static bool same(const Routed& a, const Routed& b) {
    return a.selected.same_bits(b.selected) && a.weights.same_bits(b.weights) &&
           same_bits(a.merge, b.merge) && same_bits(a.mix, b.mix);
  }

  // logits = x W + b.
  bool is_linear(const LayerFixture& f) const {
    Tape tape;
    Weights weights;
    for (std::size_t i = 1; i < f.names.size(); ++i)
      weights.set(f.names[i], tape.constant(f.values[i]));
    if (!weights.find("router.weight").defined()) return false;
    const Tensor expected = router_logits(tape.constant(f.values[0]), weights).value();
    return close(route(f, 1).logits, expected, 1e-12);
  }
  void linear(const LayerFixture& training, const LayerFixture& inference) {
    const bool is = is_linear(training) && is_linear(inference);
    note(is || !traits_.linear,
         "linear says logits = x W + b, and Routing::logits is something else");
    note(!is || traits_.linear, "logits = x W + b, and linear is stated to be false");
  }

  // The last token does not change what became of the others.
  void causal(const LayerFixture& f) {
    LayerFixture other = f;
    other.values[0] = other.values[0].clone();
    const std::int64_t tokens = other.values[0].size(0);
    for (double& v : other.values[0].rows(tokens - 1, tokens).write_values<double>()) v = 3.0 - v;
    const Routed a = route(f, 1);
    const Routed b = route(other, 1);
    if (a.selected.size(0) != tokens || a.merge.defined()) {
      note(false, "causal, and the experts work on other rows than the tokens, or are merged");
      return;
    }
    note(a.selected.rows(0, tokens - 1).same_bits(b.selected.rows(0, tokens - 1)) &&
             close(a.weights.rows(0, tokens - 1), b.weights.rows(0, tokens - 1), 1e-14),
         "causal, and a later token changes the routing of earlier ones");
  }

  // How many experts a token runs in the mean: all where its rows are made of all tokens, or its
  // expert is a sum of all.
  static double experts_of_a_token(const Routed& r, std::int64_t experts) {
    if (r.merge.defined() || r.mix.defined()) return static_cast<double>(experts);
    const std::int64_t tokens = r.selected.size(0);
    std::set<std::pair<std::int64_t, std::int32_t>> runs;
    for (std::int64_t i = 0; i < r.selected.numel(); ++i) {
      const std::int32_t e = r.selected.data<std::int32_t>()[i];
      if (e >= 0) runs.emplace(i / r.selected.size(1), e);
    }
    return static_cast<double>(runs.size()) / static_cast<double>(tokens);
  }
  // At inference with parameters far from 0: gates that are all open at first have closed.
  void sparse(LayerFixture f) {
    for (std::size_t i = 0; i < f.names.size() && !f.training; ++i) {
      if (!f.names[i].starts_with("router.")) continue;
      f.values[i] = f.values[i].clone();
      for (double& v : f.values[i].write_values<double>()) v *= 100.0;
    }
    const bool stated = f.training ? traits_.sparse_training : traits_.sparse_inference;
    const char* const trait = f.training ? "sparse_training" : "sparse_inference";
    const double mean = experts_of_a_token(route(f, 1), f.config.size.experts);
    const auto all = static_cast<double>(f.config.size.experts);
    note(stated ? mean <= all - 0.5 : mean == all,
         fmt::format("{} is stated to be {}, and a token runs {} of {} experts", trait, stated,
                     mean, all));
  }

  void draws(const LayerFixture& f) {
    const Routed first = route(f, 1);
    bool differs = false;
    bool chosen = false;
    for (std::uint64_t seed = 2; seed < 34 && !(differs && chosen); ++seed) {
      const Routed other = route(f, seed);
      differs = differs || !same(first, other);
      chosen = chosen || !first.selected.same_bits(other.selected);
    }
    const bool stated = traits_.samples || traits_.continuous;
    note(!differs || stated,
         "other random numbers give another routing, and neither samples nor continuous is stated");
    note(differs || !stated, "samples or continuous is stated, and 32 seeds give the same routing");
    Decisions outcomes = Decisions::enumerator();
    const Routed run = route(f, 1, &outcomes);
    note(run.numbers == 0 || traits_.continuous,
         "it takes random numbers that enumeration does not see, and continuous is not stated");
    note(run.numbers > 0 || !traits_.continuous,
         "continuous is stated, and all that it draws can be enumerated");
    note(run.draws == 0 || traits_.samples, "it draws experts, and samples is not stated");
    note(run.draws > 0 || chosen || !traits_.samples,
         "samples is stated, and 32 seeds choose the same experts");
  }

  // The largest gradient of a loss of the routing; 0 where there is none.
  double slope(const LayerFixture& f, const Router& router,
               const std::function<Var(const Routing&)>& loss) const {
    Tape tape({.rng = Rng{1, 0, 0}});
    std::vector<Var> leaves;
    for (const Tensor& value : f.values) leaves.push_back(tape.variable(value));
    Weights weights;
    const Var of = loss(router.route(f.config.size, f.input(leaves, weights)));
    if (!of.defined() || !of.needs_gradient()) return 0.0;
    const Gradients gradients = tape.backward(of);
    double largest = 0.0;
    for (const Var& leaf : leaves) {
      for (const double g : gradients[leaf].to_vector()) largest = std::fmax(largest, std::abs(g));
    }
    return largest;
  }

  // Each option that `losses` names is the coefficient of a loss; there is none without one, and
  // `auxiliary` says whether there is any. Of 4 experts and of 3: some are of odd numbers alone.
  void losses() {
    const auto own = [&](const std::map<std::string, std::string>& options) {
      double largest = 0.0;
      for (const std::int64_t experts : {config_.size.experts, std::int64_t{3}}) {
        LayerConfig config = config_;
        config.size.experts = experts;
        LayerFixture f = random_fixture(config, 5, true);
        const std::unique_ptr<Router> router = made(options);
        f.state.clear();  // an option may be where a state begins
        for (const Parameter& p : declared(*router, config.size)) {
          if (!p.trained) f.state.emplace_back(p.name, p.value);
        }
        largest =
            std::fmax(largest, slope(f, *router, [](const Routing& r) { return r.auxiliary; }));
      }
      return largest > kSlope;
    };
    std::map<std::string, std::string> off;
    for (const std::string& name : traits_.losses) off[name] = "0";
    note(!own(off), "it has a loss whose coefficient is no option that traits.losses names");
    for (const std::string& name : traits_.losses) {
      std::map<std::string, std::string> one = off;
      one[name] = "0.5";
      note(own(one),
           fmt::format("traits.losses names {}, which is the coefficient of no loss", name));
    }
    const bool any = !traits_.losses.empty() || own({}) || default_aux(entry_) > 0.0;
    const bool stated = traits_.auxiliary[0] != '\0';
    note(!any || stated, "it has a loss of its own, which traits.auxiliary does not name");
    note(any || !stated, "traits.auxiliary names a loss, and there is none");
  }

  // The layer's losses, where they would be constants.
  void constants(const LayerFixture& f) {
    const auto judge = [&](bool stated, const char* trait, const char* name, auto loss) {
      const bool varies = slope(f, *router_, loss) > kSlope;
      note(!stated || !varies, fmt::format("{} is stated, and {} has a gradient", trait, name));
      note(stated || varies, fmt::format("{} is not stated, and {} is a constant", trait, name));
    };
    judge(traits_.constant_aux[0] != '\0', "constant_aux", "aux",
          [](const Routing& r) { return switch_auxiliary(r); });
    judge(traits_.constant_logits, "constant_logits", "the z-loss",
          [](const Routing& r) { return z_loss(r); });
  }

  // One expert, drawn from the softmax, with weight 1.
  void categorical(const LayerFixture& f) {
    const Routed r = route(f, 1);
    bool ones = r.selected.size(1) == 1 && !r.merge.defined() && !r.mix.defined();
    for (std::int64_t i = 0; i < r.weights.numel(); ++i) ones = ones && r.weights.at(i) == 1.0;
    note(ones || !traits_.categorical, "categorical, and a token has not one expert with weight 1");
    if (!ones || !traits_.samples || traits_.continuous) return;
    const RouterMoments m = router_moments(*router_, recorded_logits(4), recorded_outcomes(4), 1);
    const bool is = m.weight_bias_l1 <= 1e-12;
    note(is || !traits_.categorical, "categorical, and E[w] is not the softmax of the logits");
    note(!is || traits_.categorical,
         "it draws one expert from the softmax, and categorical is not stated");
  }

  static Parameters declared(const Router& router, const LayerSize& size) {
    Parameters parameters;
    Rng rng{1, 0, 0};
    router.declare(size, "", parameters, rng);
    return parameters;
  }

  const RouterEntry& entry_;
  const RouterTraits& traits_;
  const LayerConfig& config_;
  CheckRow& row_;
  std::unique_ptr<Router> router_;
};

}  // namespace

void check_state(const Parameters& declared, std::string_view state, CheckRow& row) {
  bool kept = false;
  for (const Parameter& p : declared) {
    if (p.trained) continue;
    kept = true;
    row.note(
        state.find(p.name) != std::string_view::npos,
        fmt::format("traits: it declares the state {}, which traits.state does not name", p.name));
  }
  row.note(kept || state.empty(), "traits: traits.state names what it does not declare");
}

void check_learns(const LayerConfig& config, CheckRow& row) {
  const LayerFixture f = random_fixture(config, 96, true);  // some in one bucket, near ties
  const Layer layer(config);
  if (layer.estimator().needs_losses()) return;  // the gradient of the task is another
  PassOptions options;
  options.auxiliary = false;
  const LayerPass pass = run_pass(f, options);
  bool learns = false;
  bool parameters = false;
  for (std::size_t i = 0; i < f.names.size(); ++i) {
    if (!f.names[i].starts_with("router.")) continue;
    parameters = true;
    for (const double g : pass.gradients[i].to_vector()) learns = learns || std::abs(g) > 1e-14;
  }
  if (!parameters) return;
  // An estimator may be silent with weights that are no constants; of the router, that is a lie.
  LayerConfig sparse = config;
  sparse.estimator = "sparse";
  for (const OptionSpec& spec : estimator_entry(config.estimator).options) {
    sparse.options.erase(spec.name);
  }
  if (layer.router_learns() && config.estimator != "sparse" && Layer(sparse).router_learns())
    return;
  std::string given;
  for (const auto& [name, value] : config.options) given += ", " + name + "=" + value;
  row.note(
      learns == layer.router_learns(),
      fmt::format("{} with {}, k = {}{}: the task gives the router {} gradient, and "
                  "constant_weights() and weights_alone() say the contrary",
                  config.router, config.estimator, config.size.active, given, learns ? "a" : "no"));
}

void check_traits(const RouterEntry& entry, const LayerConfig& config, CheckRow& row) {
  ++row.cases;
  TraitCheck(entry, config, row).run();
}

}  // namespace moegrad
