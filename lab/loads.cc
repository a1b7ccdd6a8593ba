#include "lab/loads.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>

#include "lab/logged_run.h"
#include "tensor/folders.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

constexpr double kDeadShare = 0.01;  // of an even share

// The lines of part `part` of `parts`, of n.
std::pair<std::size_t, std::size_t> lines_of_part(std::size_t n, int part, int parts) {
  const auto at = [&](int i) {
    return n * static_cast<std::size_t>(i) / static_cast<std::size_t>(parts);
  };
  return {at(part - 1), at(part)};
}

}  // namespace

Evenness evenness_of(const std::vector<double>& shares) {
  Evenness e;
  if (shares.empty()) return e;
  const auto experts = static_cast<double>(shares.size());
  for (const double share : shares) {
    e.max_mean = std::max(e.max_mean, share * experts);
    if (share > 0.0) e.entropy -= share * std::log(share);
    if (share * experts < kDeadShare) e.dead += 1.0;
  }
  e.entropy = shares.size() > 1 ? e.entropy / std::log(experts) : 1.0;
  return e;
}

std::vector<LoadRow> loads_along(const StudyPlan& plan, const std::filesystem::path& folder,
                                 int parts) {
  std::vector<LoadRow> rows;
  for (const Variant& point : plan.points) {
    for (const Variant& method : plan.methods) {
      std::vector<LoggedRun> runs;
      std::size_t layers = 0;
      for (int seed = 1; seed <= plan.seeds; ++seed) {
        const auto path = folder / run_name(point, method.name, seed);
        if (!path_exists(RunFolder(path).result())) continue;
        const LoggedRun& run = runs.emplace_back(read_run(path));
        for (const auto& loads : run.steps.loads) layers = std::max(layers, loads.size());
      }
      for (std::size_t layer = 0; layer < layers; ++layer) {
        for (int part = 1; part <= parts; ++part) {
          LoadRow row{point.name, method.name, static_cast<int>(layer), part, {}};
          double lines = 0.0;
          for (const LoggedRun& run : runs) {
            const auto [begin, end] = lines_of_part(run.steps.size(), part, parts);
            for (std::size_t i = begin; i < end; ++i) {
              if (run.steps.loads[i].size() <= layer) continue;
              const Evenness e = evenness_of(run.steps.loads[i][layer]);
              row.mean.max_mean += e.max_mean;
              row.mean.entropy += e.entropy;
              row.mean.dead += e.dead;
              lines += 1.0;
            }
          }
          if (lines == 0.0) continue;
          row.mean.max_mean /= lines;
          row.mean.entropy /= lines;
          row.mean.dead /= lines;
          rows.push_back(row);
        }
      }
    }
  }
  return rows;
}

std::string to_json(const LoadRow& row) {
  return nlohmann::ordered_json{
      {"point", row.point},   {"method", row.method},          {"layer", row.layer},
      {"part", row.part},     {"max_mean", row.mean.max_mean}, {"entropy", row.mean.entropy},
      {"dead", row.mean.dead}}
      .dump();
}

std::vector<Variant> points_of_balance() {
  return {{"aux", {{"router", "top-k"}, {"aux", "0.01"}}},
          {"loss-free", {{"router", "loss-free"}, {"aux", "0"}}},
          {"none", {{"router", "top-k"}, {"aux", "0"}}}};
}

std::vector<Variant> methods_of_balance() {
  return {{"sparse", {}},
          {"ste-dense", {{"estimator", "ste-dense"}}},
          {"ste-dense-router", {{"estimator", "ste-dense-router"}}},
          {"expert-group", {{"estimator", "expert-group"}}}};
}

}  // namespace moegrad
