// What a router's traits say, held against what it does.

#include <cmath>

#include "moe/check.h"
#include "moe/moments.h"

namespace moegrad {
namespace {

// One routing of a fixture's tokens.
struct Routed {
  Tensor selected, weights, scores, logits;
  bool auxiliary = false;
  std::uint64_t numbers = 0;  // taken from the tape's generator
};

class TraitCheck {
 public:
  TraitCheck(const RouterEntry& entry, const LayerConfig& config, CheckRow& row)
      : traits_(entry.traits), config_(config), row_(row) {
    Options options("router " + entry.name, entry.options);
    for (const auto& [name, value] : config.options) {
      if (options.knows(name)) options.set(name, value);
    }
    router_ = entry.make(options);
  }

  void run() {
    const LayerFixture training = random_fixture(config_, 5, true);
    const LayerFixture inference = random_fixture(config_, 5, false);
    for (const LayerFixture* f : {&training, &inference}) {
      if (traits_.linear) linear(*f);
      if (traits_.causal) causal(*f);
    }
    draws(training);
    const Routed once = route(inference, 1);
    note(once.numbers == 0 && same(once, route(inference, 2)),
         "it draws at inference. Draw in training only");
    note(!route(training, 1).auxiliary || traits_.auxiliary[0] != '\0',
         "it has a loss of its own, which traits.auxiliary does not name");
    if (traits_.categorical) categorical();
    state();
  }

 private:
  void note(bool ok, const std::string& what) { row_.note(ok, "traits: " + what); }

  Routed route(const LayerFixture& f, std::uint64_t seed, Decisions* decisions = nullptr) const {
    Tape tape({.gradients = false, .rng = Rng{seed, 0, 0}, .decisions = decisions});
    std::vector<Var> leaves;
    for (const Tensor& value : f.values) leaves.push_back(tape.constant(value));
    Weights weights;
    const Routing r = router_->route(f.config.size, f.input(leaves, weights));
    return {r.selected,       r.weights.value(),     r.scores.value(),
            r.logits.value(), r.auxiliary.defined(), tape.rng().position};
  }

  static bool same(const Routed& a, const Routed& b) {
    return a.selected.same_bits(b.selected) && a.weights.same_bits(b.weights);
  }

  // logits = x W + b.
  void linear(const LayerFixture& f) {
    Tape tape;
    Weights weights;
    for (std::size_t i = 1; i < f.names.size(); ++i)
      weights.set(f.names[i], tape.constant(f.values[i]));
    if (!weights.find("router.weight").defined()) {
      note(false, "linear says logits = x W, and there is no parameter router.weight");
      return;
    }
    const Tensor expected = router_logits(tape.constant(f.values[0]), weights).value();
    note(close(route(f, 1).logits, expected, 1e-12),
         "linear says logits = x W + b, and Routing::logits is something else");
  }

  // The last token does not change what became of the others.
  void causal(const LayerFixture& f) {
    LayerFixture other = f;
    other.values[0] = other.values[0].clone();
    const std::int64_t tokens = other.values[0].size(0);
    for (double& v : other.values[0].rows(tokens - 1, tokens).write_values<double>()) v = 3.0 - v;
    const Routed a = route(f, 1);
    const Routed b = route(other, 1);
    if (a.selected.size(0) != tokens) {
      note(false, "causal, and the experts work on other rows than the tokens");
      return;
    }
    note(a.selected.rows(0, tokens - 1).same_bits(b.selected.rows(0, tokens - 1)) &&
             close(a.weights.rows(0, tokens - 1), b.weights.rows(0, tokens - 1), 1e-14),
         "causal, and a later token changes the routing of earlier ones");
  }

  void draws(const LayerFixture& f) {
    const Routed first = route(f, 1);
    bool differs = false;
    for (std::uint64_t seed = 2; seed < 34 && !differs; ++seed) {
      differs = !same(first, route(f, seed));
    }
    const bool stated = traits_.samples || traits_.continuous;
    note(!differs || stated,
         "other random numbers give another routing, and neither samples nor continuous is stated");
    note(differs || !stated, "samples or continuous is stated, and 32 seeds give the same routing");
    if (traits_.continuous) return;
    Decisions outcomes = Decisions::enumerator();
    note(route(f, 1, &outcomes).numbers == 0,
         "it takes random numbers that enumeration does not see, and continuous is not stated");
  }

  // One expert, drawn from the softmax, with weight 1.
  void categorical() {
    const std::vector<double> logits = recorded_logits(4);
    const RouterMoments m = router_moments(*router_, logits, recorded_outcomes(4), 1);
    note(m.weight_bias_l1 <= 1e-12, "categorical, and E[w] is not the softmax of the logits");
    const Routed r = route(random_fixture(config_, 5, true), 1);
    bool ones = r.selected.size(1) == 1;
    for (std::int64_t i = 0; i < r.weights.numel(); ++i) ones = ones && r.weights.at(i) == 1.0;
    note(ones, "categorical, and a token has not one expert with weight 1");
  }

  void state() {
    Parameters parameters;
    Rng rng{1, 0, 0};
    router_->declare(config_.size, "", parameters, rng);
    bool kept = false;
    for (const Parameter& p : parameters) kept = kept || !p.trained;
    note(kept == (traits_.state[0] != '\0'),
         kept ? "it declares state that traits.state does not name"
              : "traits.state names what it does not declare");
  }

  const RouterTraits& traits_;
  const LayerConfig& config_;
  CheckRow& row_;
  std::unique_ptr<Router> router_;
};

}  // namespace

void check_traits(const RouterEntry& entry, const LayerConfig& config, CheckRow& row) {
  ++row.cases;
  TraitCheck(entry, config, row).run();
}

}  // namespace moegrad
