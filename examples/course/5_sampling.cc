// Chapter 5: two of three experts, drawn without replacement: every outcome. Then the bias and the
// variance of three ways to weight what was drawn, of more experts.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kExperts = 3;
const std::vector<double> kLogits = {1.0, 0.0, -1.0};

// One outcome of the draws of a router: its probability, and the weight of each expert.
struct Outcome {
  double probability;
  std::vector<std::int64_t> drawn;
  std::vector<double> weights;
};

// All of them: the program is run once for each.
std::vector<Outcome> outcomes_of(const Router& router) {
  std::vector<Outcome> all;
  Decisions decisions = Decisions::enumerator();
  do {
    Tape t({.decisions = &decisions});
    Weights weights;
    weights.set("router.weight", t.constant(Tensor::of<double>({1, kExperts}, kLogits)));
    const Var x = t.constant(Tensor::of<double>({1, 1}, {1.0}));  // the logits are x W
    const LayerSize size{.model = 1, .hidden = 1, .output = 1, .experts = kExperts, .active = 2};
    const Routing r = router.route(size, {x, weights, true});
    Outcome outcome{decisions.probability(), {}, std::vector<double>(kExperts, 0.0)};
    for (std::int64_t i = 0; i < 2; ++i) {
      const auto e = static_cast<std::int64_t>(r.selected.at(i));
      outcome.drawn.push_back(e);
      outcome.weights[static_cast<std::size_t>(e)] += r.weights.value().at(i);
    }
    all.push_back(outcome);
  } while (decisions.next_outcome());
  return all;
}

std::unique_ptr<Router> router_named(const std::string& name, const std::string& weighting) {
  const RouterEntry& entry = router_entry(name);
  Options options("router " + name, entry.options);
  if (!weighting.empty()) options.set("weighting", weighting);
  return entry.make(options);
}

}  // namespace

int main() {
  fmt::print("moesart, each outcome of its draws:\n{:<6} {:>11}  {}\n", "drawn", "probability",
             "weights of experts 0, 1, 2");
  double total = 0.0;
  for (const Outcome& o : outcomes_of(*router_named("moesart", ""))) {
    fmt::print("{}, {:<3} {:>11.4f}  {:.4f}  {:.4f}  {:.4f}\n", o.drawn[0], o.drawn[1],
               o.probability, o.weights[0], o.weights[1], o.weights[2]);
    total += o.probability;
  }

  fmt::print("\n{:>7}  {:<22} {:>11}  {:>13}  {:>8}\n", "experts", "weights", "weight bias",
             "gradient bias", "variance");
  struct Row {
    std::string title, router, weighting;
  };
  bool unbiased = true;
  for (const std::int64_t experts : {4, 8, 16}) {
    for (const Row& row :
         {Row{"softmax over the drawn", "moesart", "large"},
          Row{"moesart", "moesart", "small-random"}, Row{"unordered set", "unordered-set", ""}}) {
      const RouterMoments m =
          router_moments(*router_named(row.router, row.weighting), recorded_logits(experts),
                         recorded_outcomes(experts), 2);
      fmt::print("{:>7}  {:<22} {:>11.4f}  {:>13.4f}  {:>8.4f}\n", experts, row.title,
                 m.weight_bias_l1, m.gradient_bias, m.gradient_variance);
      if (row.router == "unordered-set") unbiased = unbiased && m.weight_bias_l1 < 1e-12;
    }
  }
  return std::abs(total - 1.0) < 1e-12 && unbiased ? 0 : 1;
}
