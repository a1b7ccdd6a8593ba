#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lab/runs.h"
#include "lab/statistics.h"

namespace moegrad {

// Does one way to train end lower than another? The same task, sizes and seeds; what differs is what a
// method sets.
struct Method {
  std::string name;
  Settings settings;
};
// "NAME: key=value key=value", with options of router, estimator and layer as options.KEY. Errors: no
// name, a name that no folder can have, a word without "=".
Method read_method(std::string_view text);
// Those of the study: top-k with k = 2, 3, 4 and all; each dense-gradient estimator beside it; its
// controls. `active` and `experts` are those of the base.
std::vector<Method> usual_methods(const TrainConfig& base);

struct ComparePlan {
  TrainConfig base;
  std::vector<Method> methods;  // the first is what the others are compared with
  int seeds = 4;                // 1, 2, ...: of initial values, order of the data, and draws
  // Steps of a common trunk for each seed, trained by the first method: then each method goes on from
  // there. 0: each from its own beginning.
  std::int64_t trunk = 0;
};
// The runs, trunks first. A method's settings are applied behind the base's.
std::vector<PlannedRun> trunks_of(const ComparePlan& plan);
std::vector<PlannedRun> runs_of(const ComparePlan& plan, const std::filesystem::path& folder);

// What a run ended with.
struct RunFigures {
  double loss = 0.0;  // the mean of the last tenth of its evaluations, one at least
  double load =
      0.0;  // of the last: the largest load of an expert by the mean, mean over the layers
  double gradient_norm = 0.0;  // the mean over the lines of metrics, before clipping
  double step_seconds = 0.0;
};
// NaN in all where the run has not ended.
RunFigures figures_of(const std::filesystem::path& path);

struct CompareRow {
  std::string method;
  std::vector<RunFigures> runs;  // by seed
  RunFigures mean;
  PairedDifference difference;  // of the losses, this less the first method's
  double p_different = 1.0;     // corrected by holm() over the table
  double p_equivalent = 1.0;
  Finding verdict = Finding::undecided;
};
// Differences within the margin (nats) are equivalent: 0.005 is half a percent of the perplexity.
inline constexpr double kMargin = 0.005;
std::vector<CompareRow> compare(const ComparePlan& plan, const std::filesystem::path& folder,
                                double margin = kMargin);
std::string to_json(const CompareRow& row);

}  // namespace moegrad
