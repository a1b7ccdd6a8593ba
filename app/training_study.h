#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "app/commands.h"
#include "app/table.h"
#include "lab/compare.h"
#include "lab/report.h"
#include "lab/study_plan.h"

namespace moegrad {

// What the studies that train have in common: what is asked for, and the runs, which are processes that
// are not made twice and go on where they were stopped.
struct TrainingStudy {
  std::string config_file;
  Settings settings;
  std::vector<std::string> methods;
  int seeds = 4;
  double margin = kMargin;
  int jobs = 0;
  std::vector<std::string> reuse;  // other studies' folders
  bool quick = false;
  std::int64_t quick_steps = 40;
  bool estimate = false;
  std::string out;
  JsonOutput json;

  std::filesystem::path runs() const { return std::filesystem::path(out) / "runs"; }
};

// A subcommand with their flags.
CLI::App& add_training_study(CLI::App& study, const std::shared_ptr<TrainingStudy>& a,
                             const std::string& name, const std::string& summary,
                             std::string_view example);
// A flag that may be repeated, each time with one text.
CLI::Option* add_texts(CLI::App& command, const std::string& flag, std::vector<std::string>& texts,
                       const std::string& help);

// The base and the methods that are given; an Error where no task is.
StudyPlan plan_of(const TrainingStudy& a);

// Makes the runs. `code`: there is nothing to report, since only an estimate was asked for or the runs
// were stopped. An Error, before anything is made, for a run that makes no sense.
struct MadeRuns {
  std::optional<int> code = {};
  bool failed = false;
  std::string data = {};  // of the base, with its checksum
};
MadeRuns make_study(const TrainingStudy& a, const StudyPlan& plan);

// The data of a configuration; to test on, what evaluations take.
Task study_task(const TrainConfig& config);
// Of the seeds 1, 2, ... what evaluations of their runs take.
std::vector<Dataset> test_data_of_seeds(TrainConfig config, int seeds);
// "data synthetic, crc 0123abcd".
std::string data_text(const Task& task);

Table table_of(const std::vector<CompareRow>& rows);
Chart chart_of(const std::vector<CompareRow>& rows);
inline constexpr std::string_view kCompareLegend =
    "difference: of the loss to the first method, paired by seed; verdicts at 5 % by Holm";

}  // namespace moegrad
