#pragma once

#include <string>
#include <vector>

#include "lab/compare.h"

namespace moegrad {

// Does an estimator that is closer to the dense gradient train better? Of each method the closeness of its
// router gradient to ste-dense's, in the first method's models at their end, beside its own final loss.
struct ClosenessRow {
  std::string method;
  // Means over the mixture layers and the first method's models, by FidelityRow: with the real dL/dy.
  double cosine = 0.0;
  double norm_ratio = 0.0;
  double output_error = 0.0;
  PairedDifference difference;  // of the losses, less the first method's
};
// Of a plan without points whose runs are in `folder`; `batch`: tokens of the training data to measure on.
// `rows`: those of compare(). NaN where a gradient has no direction, and where no run has ended.
std::vector<ClosenessRow> closeness_of(const StudyPlan& plan, const std::filesystem::path& folder,
                                       const Task& task, const std::vector<CompareRow>& rows,
                                       std::int64_t batch);
std::string to_json(const ClosenessRow& row);
// Spearman's rank correlation of cosine and difference, over the rows that have both; NaN for fewer than 3.
// Below 0: the closer, the lower the loss.
double rank_correlation(const std::vector<ClosenessRow>& rows);

// The variants that a paper ("more accurate" ones were worse) and others have proposed.
std::vector<Variant> methods_of_closeness();

}  // namespace moegrad
