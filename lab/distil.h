#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "lab/runs.h"
#include "lab/statistics.h"
#include "train/dataset.h"

namespace moegrad {

// Does the router matter for what a student (train/student.h) learns of its teacher, where each token
// runs as many parameters? Students differ in what each sets; run i of all has the same initial values,
// order of data and texts held out.
struct DistilStudent {
  std::string name;
  Settings settings;
};
// Those of the study. "half": as many experts as the others choose, all of them run, so that no choice is
// made; "hash", which knows no more than one: of experts so much larger; "all": all experts run.
std::vector<DistilStudent> distil_students(const TrainConfig& base);

struct DistilPlan {
  TrainConfig base;
  std::vector<DistilStudent> students;  // the first is what the others are compared with
  int seeds = 3;                        // 1, 2, ...
};
std::vector<PlannedRun> distil_runs(const DistilPlan& plan);
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
std::vector<DistilRow> compare_students(const DistilPlan& plan, const std::filesystem::path& folder,
                                        const Task& task);
std::string to_json(const DistilRow& row);

}  // namespace moegrad
