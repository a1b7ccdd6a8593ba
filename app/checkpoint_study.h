#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "app/commands.h"
#include "train/dataset.h"

namespace moegrad {

// What the studies of trained models have in common: runs, the test data they are measured on, a report.
struct CheckpointStudy {
  std::vector<std::string> runs;
  std::string data;
  std::int64_t examples = 0;
  bool quick = false;
  std::string out;
  JsonOutput json;
};

// A subcommand with their flags.
CLI::App& add_checkpoint_study(CLI::App& study, const std::shared_ptr<CheckpointStudy>& a,
                               const std::string& name, const std::string& summary,
                               std::string_view example);
// Of a run, or of one of its checkpoints, the task with as many of its test data as are asked for.
Task task_with_rows(const CheckpointStudy& a, const std::string& run);
// Each run in turn; says after each how many are done, and the time left.
void for_each_run(const CheckpointStudy& a, const std::function<void(const std::string&)>& measure);

}  // namespace moegrad
