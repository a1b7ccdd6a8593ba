#include <cstdio>
#include <filesystem>
#include <memory>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/table.h"
#include "app/training_study.h"
#include "lab/fidelity.h"
#include "lab/report.h"
#include "moe/registry.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/checkpoint.h"
#include "train/fashion.h"
#include "train/loop.h"
#include "train/own.h"
#include "train/run_folder.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct FidelityArguments {
  std::string checkpoint;
  bool along_training = false;
  std::vector<std::string> estimators;
  std::int64_t batch = 0;  // as study_fidelity() has it
  std::int64_t epochs = 1;
  std::int64_t points = 10;
  std::int64_t seed = 1;
  std::string task = "vision";
  std::string data = "data";
  std::string out = "runs/fidelity";
  Device device = Device::cpu;
  JsonOutput json;
};

Table table_of(const std::vector<FidelityRow>& rows) {
  Table table;
  table.add({"step", "layer", "estimator", "cosine", "norm ratio", "cosine (ones)",
             "norm ratio (ones)", "output error"});
  for (const FidelityRow& r : rows) {
    table.add({fmt::format("{}", r.step), fmt::format("{}", r.layer), r.estimator,
               cell(r.cosine_real, 4), cell(r.norm_ratio_real, 4), cell(r.cosine_ones, 4),
               cell(r.norm_ratio_ones, 4), cell(r.output_error, 4)});
  }
  return table;
}

// Of each layer, along the steps.
std::vector<Chart> fidelity_charts(const std::vector<FidelityRow>& rows,
                                   const std::vector<std::string>& names) {
  std::vector<Chart> charts;
  const int layers = rows.back().layer + 1;
  for (int layer = 0; layer < layers; ++layer) {
    const std::string of = layers > 1 ? fmt::format(", layer {}", layer) : "";
    Chart cosine{.title = "Router gradient: cosine to ste-dense, real dL/dy" + of,
                 .axis = "cosine"};
    Chart ratio{.title = "Router gradient: norm over ste-dense's, real dL/dy" + of,
                .axis = "norm ratio"};
    for (const std::string& name : names) {
      cosine.series.push_back({name, {}});
      ratio.series.push_back({name, {}});
    }
    for (const FidelityRow& r : rows) {
      if (r.layer != layer) continue;
      const auto at = std::ranges::find(names, r.estimator) - names.begin();
      cosine.series[static_cast<std::size_t>(at)].values.push_back(r.cosine_real);
      ratio.series[static_cast<std::size_t>(at)].values.push_back(r.norm_ratio_real);
      if (at == 0) cosine.labels.push_back(fmt::format("{}", r.step));
    }
    ratio.labels = cosine.labels;
    cosine.lines = ratio.lines = cosine.labels.size() > 1;
    charts.insert(charts.end(), {cosine, ratio});
  }
  return charts;
}

// The configuration that a study has trained with: of its own run, it is that in config.json.
fs::path mark_of(const RunFolder& run) { return run.path() / "study.json"; }

// True for a run that an earlier study made, false where there is none; an Error for any other.
bool may_start_over(const RunFolder& run) {
  if (!run.holds_run()) return false;
  if (path_exists(mark_of(run)) && path_exists(run.config()) &&
      read_file(mark_of(run)) == read_file(run.config())) {
    return true;
  }
  fail("study",
       "'{}' holds a run that is not of this study, and it would be lost. Choose another folder "
       "with --out.",
       run.path().string());
}

// What to measure on: of a checkpoint on somebody's own data, all rows of the file as it reads them.
Task task_of(const TrainConfig& config, const FidelityArguments& a) {
  if (a.along_training || config.task != "own") return load_task(config);
  const StoredModel stored = load_model(checkpoint_of(a.checkpoint));
  Task task{.name = config.task,
            .summary = {},
            .source = a.data,
            .targets = stored.task.targets,
            .train = read_own(a.data, stored.task, {.header = config.header}),
            .test = {},
            .columns = stored.task.columns,
            .label = stored.task.label};
  return task;
}

int run_fidelity(const FidelityArguments& a) {
  if (a.along_training == !a.checkpoint.empty()) {
    fail("study", "give --checkpoint PATH or --along-training, one of them.");
  }
  for (const std::string& name : a.estimators) {
    estimator_entry(name);
    if (std::ranges::count(a.estimators, name) > 1) {
      fail("study", "estimator '{}' is given twice. Give it once.", name);
    }
  }
  const std::vector<std::string> names =
      a.estimators.empty() ? comparable_estimators() : a.estimators;
  std::vector<fs::path> checkpoints;
  TrainConfig of_data;
  of_data.task = a.task;
  if (!a.along_training) {
    checkpoints = checkpoints_of(a.checkpoint);
    of_data = stored_config(checkpoints.back());
  }
  of_data.data = a.data;
  of_data.seed = a.seed;
  of_data.dtype = "f32";
  const Task task = task_of(of_data, a);
  const RunFolder run(fs::path(a.out) / "run");
  std::vector<std::string> inputs = {a.checkpoint, vision_folder(a.data),
                                     of_data.task == "own" ? a.data : ""};
  if (a.along_training) inputs.push_back(run.path());
  const Report report(a.out, a.json, inputs);
  if (a.along_training) {
    TrainConfig config;
    config.task = a.task;
    config.data = a.data;
    config.epochs = a.epochs;
    config.seed = a.seed;
    config.keep = a.points + a.epochs + 1;
    const std::int64_t steps = a.epochs * Batches(task.train, config.batch).size();
    config.checkpoint_every =
        std::max<std::int64_t>(1, steps / std::max<std::int64_t>(1, a.points));
    Progress progress(stderr, Progress::style_for(stderr));
    const bool again = may_start_over(run);
    make_folder(run.path());
    write_file_atomic(mark_of(run), to_json(config) + "\n");
    train(config, {.out = run.path(),
                   .force = again,
                   .device = a.device,
                   .progress = &progress,
                   .task = &task});
    checkpoints = Checkpoints(run.checkpoints(), config.keep, "{}").list();
  }
  const std::vector<FidelityRow> rows = study_fidelity(checkpoints, task, names, a.batch, a.device);
  ordered_json list = ordered_json::array();
  for (const FidelityRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, fidelity_charts(rows, names), {table_of(rows)}, a.device, {}, data_text(task));
  return kOk;
}

}  // namespace

void add_study_fidelity(CLI::App& study, Global& global) {
  const auto a = std::make_shared<FidelityArguments>();
  CLI::App& command =
      add_command(study, "fidelity",
                  "How each estimator's router gradient follows ste-dense in a trained model.",
                  "moegrad study fidelity --along-training\n  moegrad study fidelity --checkpoint "
                  "runs/language-xs");
  command
      .add_option("--checkpoint", a->checkpoint,
                  "a checkpoint of moegrad train; or the folder of a run: all that it has")
      ->type_name("PATH");
  command.add_flag("--along-training", a->along_training,
                   "train a model and measure at points on the way");
  command.add_option("--estimators", a->estimators, "[all that need no router of their own]")
      ->delimiter(',')
      ->type_name("LIST");
  command.add_option("--task", a->task, "to train on [vision]");
  add_number<std::int64_t>(command, "--epochs", a->epochs, 1, 1000, "to train for [1]");
  add_number<std::int64_t>(command, "--points", a->points, 1, 1000, "on the way [10]");
  add_number<std::int64_t>(command, "--batch", a->batch, 1, 65536,
                           "examples to measure on [512; of text 16]");
  add_number<std::int64_t>(command, "--seed", a->seed, 0, kMostSteps, "0 to 2^53 - 1 [1]");
  command.add_option("--data", a->data, "folder of the data; of the task own its file [data]")
      ->type_name("PATH");
  add_device(command, a->device);
  command.add_option("--out", a->out, "folder of the report [runs/fidelity]")->type_name("DIR");
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run_fidelity(*a); });
}

}  // namespace moegrad
