#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "lab/statistics.h"
#include "lab/study_plan.h"
#include "train/dataset.h"

namespace moegrad {

// Does the router matter for what a student (train/student.h) learns of its teacher, where each token
// runs as many parameters? The students of the study, as the methods of a StudyPlan. "half": as many experts
// as the others choose, all of them run, so that no choice is made; "hash", which knows no more than one:
// of experts so much larger; "all": all experts run.
std::vector<Variant> distil_students(const TrainConfig& base);
// The parameters of experts that a token runs, in all layers, without their biases.
std::int64_t active_parameters(const TrainConfig& config);

// What a finished run tells of each text held out, its class: worked out from its checkpoint, once, and
// kept beside it.
std::vector<std::int32_t> guesses_of_run(const std::filesystem::path& run, const Task& task);

struct DistilRow {
  std::string student;
  std::int64_t active = 0;
  std::vector<double> accuracy = {};        // by seed; NaN where the run has not ended
  double mean = 0.0;                        // of those that have
  PairedDifference difference = {};         // of accuracies, this less the first's
  std::vector<PairedGuesses> guesses = {};  // by seed, this and the first, text by text
  std::vector<double> p = {};               // theirs, by Holm over the table
};
// The last row is the teacher, who is the same at every seed.
std::vector<DistilRow> compare_students(const StudyPlan& plan, const std::filesystem::path& folder,
                                        const Task& task);
std::string to_json(const DistilRow& row);

}  // namespace moegrad
