#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moegrad {

// What a run ended with.
struct RunFigures {
  double loss = 0.0;  // the mean of the last tenth of its evaluations, one at least
  // Of the last evaluation: the largest load of an expert by the mean, mean over the layers.
  double load = 0.0;
  // Means over the lines of metrics: before clipping, after it, and how many were clipped.
  double gradient_norm = 0.0;
  double clipped_norm = 0.0;
  double clipped = 0.0;
  double step_seconds = 0.0;
};
// NaN in all where the run has not ended.
RunFigures figures_of(const std::filesystem::path& path);
RunFigures mean_of(const std::vector<RunFigures>& runs);
// Their names and values, for tables and JSON.
struct NamedFigure {
  const char* name;
  double RunFigures::*member;
};
const std::vector<NamedFigure>& run_figures();

}  // namespace moegrad
