#pragma once

#include <string>
#include <vector>

#include "lab/compare.h"

namespace moegrad {

// A model that was trained on one set of data goes on with another: what does it forget of the first?
// Losses on the test data of the source.
struct ForgettingRow {
  std::string method;
  double before = 0.0;        // of the models it began with, the mean over the seeds
  double after = 0.0;         // of its own
  std::vector<double> seeds;  // after, by seed; NaN where a run has not ended
  Judged judged;              // after, less the first method's
};
// Of a plan with a trunk, whose runs are in `folder`; of its first point. `source`: by seed, what its trunk
// is tested on.
std::vector<ForgettingRow> forgetting(const StudyPlan& plan, const std::filesystem::path& folder,
                                      const std::vector<Dataset>& source, double margin = kMargin);
std::string to_json(const ForgettingRow& row);

// Every estimator that gives the sparse layer another gradient, beside the sparse one.
std::vector<Variant> methods_of_finetune();

}  // namespace moegrad
