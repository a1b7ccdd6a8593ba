#include "lab/closeness.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <nlohmann/json.hpp>

#include "lab/fidelity.h"
#include "tensor/folders.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

FidelityVariant variant_of(const StudyPlan& plan, const Variant& method) {
  const TrainConfig config = config_of(plan, plan.points.front(), method, 1);
  FidelityVariant variant{
      method.name, config.router_gradient.empty() ? config.estimator : config.router_gradient};
  for (const auto& [key, value] : method.settings) {
    if (key.starts_with("options.")) variant.options[key.substr(8)] = value;
  }
  return variant;
}

// From 1 on; of equal values the mean of their ranks.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<double> all;
  for (const double v : values) {
    const auto below = std::ranges::count_if(values, [&](double other) { return other < v; });
    const auto same = std::ranges::count(values, v);
    all.push_back(static_cast<double>(below) + (static_cast<double>(same) + 1.0) / 2.0);
  }
  return all;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return aa > 0.0 && bb > 0.0 ? ab / std::sqrt(aa * bb) : kUnknown;
}

}  // namespace

std::vector<ClosenessRow> closeness_of(const StudyPlan& plan, const std::filesystem::path& folder,
                                       const Task& task, const std::vector<CompareRow>& rows,
                                       std::int64_t batch) {
  std::vector<ClosenessRow> all;
  std::vector<FidelityVariant> variants;
  for (std::size_t m = 0; m < plan.methods.size(); ++m) {
    all.push_back({.method = plan.methods[m].name, .difference = rows[m].difference});
    variants.push_back(variant_of(plan, plan.methods[m]));
  }
  const Batch tokens = Batches(task.train, batch).get(0);
  double measured = 0.0;
  for (int seed = 1; seed <= plan.seeds; ++seed) {
    const auto run = folder / run_name(plan.points.front(), plan.methods.front().name, seed);
    if (!path_exists(RunFolder(run).result())) continue;
    for (const FidelityRow& row :
         measure_variants(load_model(checkpoint_of(run)), tokens, variants)) {
      ClosenessRow& mine = *std::ranges::find(all, row.estimator, &ClosenessRow::method);
      mine.cosine += row.cosine_real;
      mine.norm_ratio += row.norm_ratio_real;
      mine.output_error += row.output_error;
      if (&mine == &all.front()) measured += 1.0;
    }
  }
  for (ClosenessRow& row : all) {
    for (double* const mean : {&row.cosine, &row.norm_ratio, &row.output_error}) *mean /= measured;
  }
  return all;
}

double rank_correlation(const std::vector<ClosenessRow>& rows) {
  std::vector<double> cosines;
  std::vector<double> differences;
  for (const ClosenessRow& row : rows) {
    // The first method's difference to itself is 0.
    const double difference = &row == &rows.front() ? 0.0 : row.difference.mean;
    const bool known = &row == &rows.front() || row.difference.pairs > 0;
    if (!known || std::isnan(row.cosine) || std::isnan(difference)) continue;
    cosines.push_back(row.cosine);
    differences.push_back(difference);
  }
  if (cosines.size() < 3) return kUnknown;
  return correlation(ranks(cosines), ranks(differences));
}

std::string to_json(const ClosenessRow& row) {
  return nlohmann::ordered_json{
      {"method", row.method},          {"cosine", row.cosine},
      {"norm_ratio", row.norm_ratio},  {"output_error", row.output_error},
      {"pairs", row.difference.pairs}, {"difference", row.difference.mean},
      {"error", row.difference.error}}
      .dump();
}

std::vector<Variant> methods_of_closeness() {
  const auto estimator = [](const char* name, Settings more = {}) {
    more.insert(more.begin(), {"estimator", name});
    return more;
  };
  return {{"sparse", {}},
          {"expert-group", estimator("expert-group")},
          {"expert-group-weighted", estimator("expert-group", {{"options.weighted", "true"}})},
          {"expert-group-minimum", estimator("expert-group", {{"options.minimum-score", "0.1"}})},
          {"attention", estimator("attention", {{"options.causal", "true"}})},
          {"default-ema", estimator("default-ema", {{"options.forward", "false"}})},
          {"ste-probe", estimator("ste-probe")},
          {"ste-dense-router", estimator("ste-dense-router")},
          {"ste-dense", estimator("ste-dense")}};
}

}  // namespace moegrad
