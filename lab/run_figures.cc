#include "lab/run_figures.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <span>

#include "lab/logged_run.h"
#include "tensor/folders.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr double kNotEnded = std::numeric_limits<double>::quiet_NaN();

double mean_of_last(std::span<const double> numbers, std::size_t count) {
  if (numbers.empty()) return kNotEnded;
  double sum = 0.0;
  for (const double n : numbers.last(count)) sum += n;
  return sum / static_cast<double>(count);
}

std::vector<double> logged_column(const LoggedLines& lines, const char* name) {
  const auto found = lines.columns.find(name);
  return found == lines.columns.end() ? std::vector<double>() : found->second;
}

double result_number(const LoggedRun& run, std::string_view name) {
  const auto found =
      std::ranges::find_if(run.result, [&](const auto& r) { return r.first == name; });
  return found == run.result.end() ? kNotEnded : found->second;
}

}  // namespace

const std::vector<NamedFigure>& run_figures() {
  using F = RunFigures;
  static const std::vector<NamedFigure> all = {{"loss", &F::loss},
                                               {"load", &F::load},
                                               {"gradient_norm", &F::gradient_norm},
                                               {"clipped_norm", &F::clipped_norm},
                                               {"clipped", &F::clipped},
                                               {"step_seconds", &F::step_seconds}};
  return all;
}

RunFigures figures_of(const fs::path& path) {
  RunFigures figures;
  for (const NamedFigure& f : run_figures()) figures.*f.member = kNotEnded;
  if (!path_exists(RunFolder(path).result())) return figures;
  const LoggedRun run = read_run(path);
  const std::vector<double> losses = logged_column(run.evaluations, "test_loss");
  figures.loss = mean_of_last(losses, std::max<std::size_t>(1, losses.size() / 10));
  const std::vector<double> loads = logged_column(run.evaluations, "load_max_mean");
  figures.load = loads.empty() ? kNotEnded : loads.back();

  const std::vector<double> norms = logged_column(run.steps, "gradient_norm");
  const double clip = std::strtod(run.config.at("clip").c_str(), nullptr);
  std::vector<double> after;
  std::vector<double> clipped;
  for (const double norm : norms) {
    const bool cut = clip > 0.0 && norm > clip;
    after.push_back(cut ? clip : norm);
    clipped.push_back(cut ? 1.0 : 0.0);
  }
  figures.gradient_norm = mean_of_last(norms, norms.size());
  figures.clipped_norm = mean_of_last(after, after.size());
  figures.clipped = mean_of_last(clipped, clipped.size());
  figures.step_seconds = result_number(run, "train_seconds") / result_number(run, "steps");
  return figures;
}

RunFigures mean_of(const std::vector<RunFigures>& runs) {
  RunFigures mean;
  for (const NamedFigure& f : run_figures()) {
    std::vector<double> numbers;
    for (const RunFigures& run : runs) numbers.push_back(run.*f.member);
    mean.*f.member = mean_of_last(numbers, numbers.size());
  }
  return mean;
}

}  // namespace moegrad
