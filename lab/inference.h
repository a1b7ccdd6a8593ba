#pragma once

#include <string>
#include <vector>

#include "lab/statistics.h"
#include "lab/study_plan.h"
#include "train/stored_model.h"

namespace moegrad {

// What changes between training and inference? On test data, with the model as it was trained: its loss
// when the layers do what they do in training (draws, noise, capacities of training, other weights), in
// the mean over so many draws, and when they do what they do at inference.
struct ModeGap {
  double training = 0.0;
  double inference = 0.0;
  double error = 0.0;  // of their difference, over the batches; NaN where there is one alone
  double experts_training = 0.0;  // that a token runs, in the mean
  double experts_inference = 0.0;
};
ModeGap mode_gap(const StoredModel& model, const Dataset& data, int draws);

// A row of a plan's method: the means over the seeds that have ended.
struct GapRow {
  std::string method;
  int runs = 0;
  ModeGap mean;
};
// `data`: by seed, what its runs are tested on; where the seed draws the data, another's was trained on.
std::vector<GapRow> gaps_of(const StudyPlan& plan, const std::filesystem::path& folder,
                            const std::vector<Dataset>& data, int draws);
std::string to_json(const GapRow& row);

// What another estimator changes of the values of a trained model: of one that is backward-only, nothing.
struct BitsRow {
  std::string estimator;
  bool backward_only = false;  // as it claims; where `forward` is an option it is off
  bool same_training = false;  // every bit of what the model tells of a batch
  bool same_inference = false;
  double training = 0.0;  // the largest difference to the estimator sparse
  double inference = 0.0;
};
// Of the estimators that go with the model's router.
std::vector<BitsRow> bits_of_estimators(const StoredModel& model, const Batch& host);
std::string to_json(const BitsRow& row);

// Every router, as far as the base can be trained with it, with as many experts active as it takes; why
// others are left out.
std::vector<Variant> every_router(const TrainConfig& base, const TaskShape& task,
                                  std::vector<std::string>& left_out);

}  // namespace moegrad
