#include "lab/finetune.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "tensor/folders.h"
#include "train/evaluation.h"
#include "train/run_folder.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// NaN where it has not ended.
double loss_on(const Dataset& data, const fs::path& run) {
  if (!path_exists(RunFolder(run).result())) return std::numeric_limits<double>::quiet_NaN();
  const StoredModel stored = load_model(checkpoint_of(run));
  return evaluate(*stored.model, stored.parameters, data, config_of(run, stored).dropless).loss;
}

double mean_of_seeds(const std::vector<double>& losses) {
  double sum = 0.0;
  for (const double loss : losses) sum += loss;
  return sum / static_cast<double>(losses.size());
}

}  // namespace

std::vector<ForgettingRow> forgetting(const StudyPlan& plan, const fs::path& folder,
                                      const std::vector<Dataset>& source, double margin) {
  const Variant& point = plan.points.front();
  const auto losses_of = [&](const std::string& name) {
    std::vector<double> losses;
    for (int seed = 1; seed <= plan.seeds; ++seed) {
      const Dataset& of_seed = source.at(static_cast<std::size_t>(seed - 1));
      losses.push_back(loss_on(of_seed, folder / run_name(point, name, seed)));
    }
    return losses;
  };
  const double before = mean_of_seeds(losses_of("trunk"));
  std::vector<ForgettingRow> rows;
  std::vector<PairedDifference> differences;
  for (const Variant& method : plan.methods) {
    ForgettingRow& row = rows.emplace_back();
    row.method = method.name;
    row.before = before;
    row.seeds = losses_of(method.name);
    row.after = mean_of_seeds(row.seeds);
    if (rows.size() == 1) continue;
    differences.push_back(difference_of_ended(row.seeds, rows.front().seeds, margin));
  }
  const std::vector<Judged> all = judged(differences);
  for (std::size_t i = 1; i < rows.size(); ++i) rows[i].judged = all[i - 1];
  return rows;
}

std::string to_json(const ForgettingRow& row) {
  const PairedDifference& d = row.judged.difference;
  return nlohmann::ordered_json{{"method", row.method},
                                {"source_before", row.before},
                                {"source_after", row.after},
                                {"source_after_by_seed", row.seeds},
                                {"pairs", d.pairs},
                                {"difference", d.mean},
                                {"error", d.error},
                                {"low", d.low},
                                {"high", d.high},
                                {"p_different", row.judged.p_different},
                                {"p_equivalent", row.judged.p_equivalent},
                                {"verdict", verdict_text(d, row.judged.verdict)}}
      .dump();
}

std::vector<Variant> methods_of_finetune() {
  return {{"sparse", {}},
          {"ste-dense", {{"estimator", "ste-dense"}}},
          {"ste-dense-router", {{"estimator", "ste-dense-router"}}},
          {"ste-probe", {{"estimator", "ste-probe"}}},
          {"expert-group", {{"estimator", "expert-group"}}},
          {"expert-group-router", {{"router_gradient", "expert-group"}}},
          {"attention", {{"estimator", "attention"}, {"options.causal", "true"}}},
          {"default-ema", {{"estimator", "default-ema"}, {"options.forward", "false"}}}};
}

}  // namespace moegrad
