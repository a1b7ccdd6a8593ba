#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lab/run_figures.h"
#include "lab/statistics.h"
#include "lab/study_plan.h"

namespace moegrad {

// Does one way to train end lower than another? The same task, sizes and seeds; what differs is what a
// method sets; and over a grid, does it depend on the sizes?

// Those of the study: top-k with k = 2, 3, 4 and all; each dense-gradient estimator beside it; its
// controls; the sparse gradient with the norms of dense ones. `active` and `experts` are those of the base,
// and so is `aux` but for other routers, which have their own papers'.
std::vector<Variant> usual_methods(const TrainConfig& base);
// Once more each method that costs more than the first, "NAME@ops", with the steps that the first one's
// operations pay for.
std::vector<Variant> with_equal_operations(const TrainConfig& base,
                                           const std::vector<Variant>& methods, const Task& task);

struct CompareRow {
  std::string point;  // of the grid; empty: there is none
  std::string method;
  std::vector<RunFigures> runs;  // by seed
  RunFigures mean;
  PairedDifference difference;  // of the losses, this less the first method's at the same point
  PairedDifference change;      // of that difference, this point's less the first point's
  double p_different = 1.0;     // corrected by holm() over the table
  double p_equivalent = 1.0;
  Finding verdict = Finding::undecided;
  // Of the gap from the first method to "all" at the same point, the part that this method closes; NaN
  // where there is no method of that name, or the interval of its difference is not below 0.
  double gap = 0.0;
};
// Differences within the margin (nats) are equivalent: 0.005 is half a percent of the perplexity.
inline constexpr double kMargin = 0.005;
std::vector<CompareRow> compare(const StudyPlan& plan, const std::filesystem::path& folder,
                                double margin = kMargin);
std::string to_json(const CompareRow& row);

// Corrects the p-values of differences by holm(), those of both tests together, and finds the verdicts. No
// mean is both 0 and beyond the margin: of the two hypotheses of a difference one at most is true.
struct Judged {
  PairedDifference difference;
  double p_different = 1.0, p_equivalent = 1.0;
  Finding verdict = Finding::undecided;
};
std::vector<Judged> judged(const std::vector<PairedDifference>& differences);
// The name of the verdict; a dash where no seed has both.
std::string verdict_text(const PairedDifference& difference, Finding verdict);
// Of the seeds of which both have ended.
PairedDifference difference_of_losses(const std::vector<RunFigures>& a,
                                      const std::vector<RunFigures>& b, double margin);

}  // namespace moegrad
