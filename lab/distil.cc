#include "lab/distil.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "moe/values.h"
#include "tensor/folders.h"
#include "tensor/safetensors.h"
#include "train/evaluation.h"
#include "train/measures.h"
#include "train/run_folder.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Guesses = std::vector<std::int32_t>;

constexpr double kNoRun = std::numeric_limits<double>::quiet_NaN();

Guesses largest_columns(const Tensor& x) {
  const Tensor places = largest_places(x, 1);
  const auto values = places.values<std::int32_t>();
  return {values.begin(), values.end()};
}

// Without those that are not finite; NaN where none is.
double mean_of_known(const std::vector<double>& numbers) {
  double sum = 0.0;
  int known = 0;
  for (const double n : numbers) {
    if (std::isnan(n)) continue;
    sum += n;
    ++known;
  }
  return known == 0 ? kNoRun : sum / known;
}

}  // namespace

std::vector<Variant> distil_students(const TrainConfig& base) {
  return {{"top-k", {}},
          {"top-k-aux", {{"aux", "0.01"}}},
          {"moesart", {{"router", "moesart"}}},
          {"expert-choice", {{"router", "expert-choice"}}},
          {"hash",
           {{"router", "hash"},
            {"active", "1"},
            {"experts", std::to_string(base.experts / base.active)},
            {"hidden", std::to_string(base.hidden * base.active)}}},
          {"ste-dense", {{"estimator", "ste-dense"}}},
          {"half", {{"router", "softmax"}, {"experts", std::to_string(base.active)}}},
          {"all", {{"router", "softmax"}}}};
}

std::int64_t active_parameters(const TrainConfig& config) {
  const LayerSize size = config.layer().size;
  return config.layers * std::min(size.active, size.experts) * 2 * size.model * size.hidden;
}

std::vector<std::int32_t> guesses_of_run(const fs::path& run, const Task& task) {
  const fs::path checkpoint = checkpoint_of(run);
  const fs::path file = run / "guesses.safetensors";
  constexpr const char* kName = "guesses";
  if (path_exists(file)) {
    const TensorFile kept = read_safetensors(file);
    const auto of = kept.metadata.find("checkpoint");
    const Tensor& guesses = kept.at(kName);
    if (of != kept.metadata.end() && of->second == checkpoint.filename().string() &&
        guesses.dtype() == DType::i32 && guesses.numel() == task.test.labels.numel()) {
      const auto values = guesses.values<std::int32_t>();
      return {values.begin(), values.end()};
    }
  }
  const StoredModel stored = load_model(checkpoint);
  require_shape(stored, task.shape());
  const Guesses guesses =
      largest_columns(probabilities(*stored.model, stored.parameters, task.test.x));
  TensorFile kept;
  kept.tensors[kName] = Tensor::of({std::ssize(guesses)}, guesses);
  kept.metadata["checkpoint"] = checkpoint.filename().string();
  write_safetensors(file, kept);
  return guesses;
}

std::vector<DistilRow> compare_students(const StudyPlan& plan, const fs::path& folder,
                                        const Task& task) {
  const std::span<const std::int32_t> labels = task.test.labels.values<std::int32_t>();
  const auto seeds = static_cast<std::size_t>(plan.seeds);
  std::vector<DistilRow> rows;
  std::vector<std::vector<Guesses>> all;  // by row and seed; empty where there is no run
  for (const Variant& student : plan.methods) {
    rows.push_back(
        {.student = student.name, .active = active_parameters(config_of(plan, {}, student, 1))});
    all.emplace_back();
    for (int seed = 1; seed <= plan.seeds; ++seed) {
      const fs::path run = folder / run_name({}, student.name, seed);
      const bool ended = path_exists(RunFolder(run).result());
      all.back().push_back(ended ? guesses_of_run(run, task) : Guesses());
    }
  }
  rows.push_back({.student = "teacher"});
  const Tensor guide = task.test.guide;
  const Tensor logits = columns_of(guide, 0, task.targets.front().classes);
  all.emplace_back(seeds, largest_columns(logits));
  std::vector<double> p;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t s = 0; s < seeds; ++s) {
      const Guesses& own = all[i][s];
      rows[i].accuracy.push_back(own.empty() ? kNoRun : accuracy(own, labels));
      const bool both = !own.empty() && !all[0][s].empty();
      rows[i].guesses.push_back(both ? paired_guesses(own, all[0][s], labels) : PairedGuesses());
      if (i > 0) p.push_back(rows[i].guesses.back().p);
    }
    rows[i].mean = mean_of_known(rows[i].accuracy);
    if (i > 0) rows[i].difference = difference_of_ended(rows[i].accuracy, rows[0].accuracy, 0.0);
  }
  const std::vector<double> corrected = holm(p);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    const auto begin = corrected.begin() + static_cast<std::ptrdiff_t>((i - 1) * seeds);
    rows[i].p.assign(begin, begin + static_cast<std::ptrdiff_t>(seeds));
  }
  return rows;
}

std::string to_json(const DistilRow& row) {
  Json pairs = Json::array();
  for (const PairedGuesses& g : row.guesses) {
    pairs.push_back({{"only_this", g.only_a}, {"only_first", g.only_b}, {"p", g.p}});
  }
  const PairedDifference& d = row.difference;
  return Json{{"student", row.student}, {"active_parameters", row.active},
              {"accuracy", row.mean},   {"accuracies", row.accuracy},
              {"difference", d.mean},   {"error", d.error},
              {"mcnemar", pairs},       {"p", row.p}}
      .dump();
}

}  // namespace moegrad
