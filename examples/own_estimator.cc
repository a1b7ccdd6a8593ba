// A gradient estimator of one's own, registered at run time.
//   selected-mean: for an expert that a token did not select, the mean output of those it did
//   stands in the router's gradient: V_j = (1/k) sum_{i in R} E_i(x) for j off R
#include <filesystem>

#include <fmt/core.h>

#include "moe/estimators/surrogate.h"
#include "moegrad.h"

using namespace moegrad;

namespace {

class SelectedMean : public Estimator {
 public:
  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    if (!in.training()) return written_sparse(h, in.routing.weights, in.plan);
    const Tensor ids = complement(in.routing.selected, in.plan.experts);
    Unselected rest;
    rest.plan = make_plan(ids, in.plan.experts);
    rest.scores = in.routing.scores;
    const Var mean = combine_mean(h, in.plan);
    rest.values = dispatch(mean, rest.plan);
    return written_surrogate(h, in.routing.weights, in.plan, rest);
  }

 private:
  static Var combine_mean(Var h, const Plan& plan) {
    return moegrad::combine(stop_gradient(h), plan) / static_cast<double>(plan.choices);
  }
};

}  // namespace

int main() {
  add_estimator({.name = "selected-mean",
                 .summary = "the mean of a token's selected experts stands for the others",
                 .source = "an example",
                 .formula = "V_j = (1/k) sum_{i in R} E_i(x) for j off R",
                 .make = [](const Options&) { return std::make_unique<SelectedMean>(); }});

  const EstimatorEntry& entry = estimators().back();
  fmt::print("listed   {}: {}\n", entry.name, entry.summary);
  const CheckRow row = check_estimator(entry);
  fmt::print("checked  {} cases, {}: {}\n", row.cases, row.oracle, name_of(row.verdict));
  const BiasRow bias = measure_bias({.router = "top-k", .estimator = entry.name});
  fmt::print("studied  cosine {:.3f}, norm ratio {:.3f} to the dense gradient\n", bias.cosine,
             bias.norm_ratio);
  TrainConfig config;
  config.task = "synthetic";
  config.estimator = entry.name;
  const auto out = std::filesystem::temp_directory_path() / "moegrad-own-estimator";
  const TrainResult result = train(config, {.out = out, .force = true});
  fmt::print("trained  test accuracy {:.3f}\n", result.test.accuracy());
  return row.verdict == Verdict::pass && result.test.accuracy() > 0.4 ? 0 : 1;
}
