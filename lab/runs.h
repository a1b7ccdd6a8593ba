#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "train/config.h"

namespace moegrad {

// One training of a study.
struct PlannedRun {
  std::string name;  // of its folder below the study's
  TrainConfig config;
};

struct RunsOptions {
  std::filesystem::path folder;
  std::filesystem::path program;  // moegrad, whose command `train` each run is
  int jobs = 1;                   // processes at a time, of one thread each
  // Of other studies: where a run that is not there is finished in one of these, of the same
  // configuration and data, folder/NAME becomes a link to it; not where it goes on from another.
  std::vector<std::filesystem::path> reuse = {};
  // The checksum of the data of a run; a finished one must have been made of these.
  std::function<std::string(const TrainConfig&)> data;
  // Becomes the number of a signal when all are to stop: runs are saved, and go on the next time.
  const std::atomic<int>* stop = nullptr;
  // Called with a line whenever a run begins or ends: what, how many are done, the time left.
  std::function<void(std::string_view)> message = [](std::string_view) {};
};

enum class RunState { made, was_there, failed, stopped };
struct RunOutcome {
  RunState state = RunState::stopped;
  std::string why = {};  // the last line that a failed run wrote
};

// Makes the runs that are not there yet, each in folder/NAME, its output in folder/NAME.log. One that
// was begun goes on; one that fails stops no other. An Error, before anything is begun, where a
// folder holds a run of another configuration, or a finished one of other data: it says which.
std::vector<RunOutcome> make_runs(const std::vector<PlannedRun>& runs, const RunsOptions& options);

// Of a whole run.
std::int64_t steps_of(const TrainConfig& config, const Task& task);
// Seconds of a step of training, without its evaluations: the median of a few, on one thread.
double seconds_of_step(const TrainConfig& config, const Task& task);

}  // namespace moegrad
