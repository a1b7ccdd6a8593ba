#include <cmath>
#include <memory>
#include <thread>

#include "app/commands.h"
#include "app/stop_signal.h"
#include "app/study_report.h"
#include "lab/distil.h"
#include "moe/layer.h"
#include "train/progress.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kDistilExample =
    "moegrad study distil --config examples/configs/distil.json --seeds 3\n"
    "  moegrad study distil --config examples/configs/distil.json --students top-k,moesart,all";

struct DistilArguments {
  std::string config_file;
  Settings settings;
  std::vector<std::string> students;
  int seeds = 3;
  int jobs = 0;
  bool quick = false;
  std::string out = "runs/distil";
  JsonOutput json;
};

std::vector<DistilStudent> chosen_students(const TrainConfig& base,
                                           const std::vector<std::string>& names) {
  const std::vector<DistilStudent> all = distil_students(base);
  if (names.empty()) return all;
  std::vector<DistilStudent> chosen;
  for (const std::string& name : names) {
    std::vector<std::string> known;
    for (const DistilStudent& student : all) {
      known.push_back(student.name);
      if (student.name == name) chosen.push_back(student);
    }
    if (chosen.empty() || chosen.back().name != name) {
      fail("study", "there is no student '{}'. Choose from: {}.", name, fmt::join(known, ", "));
    }
  }
  return chosen;
}

std::string per_seed(const std::vector<double>& numbers, int digits) {
  std::string text;
  for (const double n : numbers) text += (text.empty() ? "" : " ") + cell(n, digits);
  return text.empty() ? "-" : text;
}

Table distil_table(const std::vector<DistilRow>& rows) {
  Table table;
  table.add({"student", "active parameters", "accuracy", "difference", "error", "by seed",
             "McNemar's p by seed"});
  for (const DistilRow& row : rows) {
    const bool first = &row == &rows.front();
    table.add({row.student, row.active == 0 ? "-" : std::to_string(row.active), cell(row.mean, 4),
               first ? "-" : cell(row.difference.mean, 4),
               first ? "-" : cell(row.difference.error, 4), per_seed(row.accuracy, 4),
               per_seed(row.p, 3)});
  }
  return table;
}

std::vector<Chart> distil_charts(const std::vector<DistilRow>& rows) {
  Chart chart{.title = "accuracy of students", .axis = "of texts held out"};
  chart.series = {{"mean over seeds", {}}};
  for (const DistilRow& row : rows) {
    chart.labels.push_back(row.student);
    chart.series[0].values.push_back(row.mean);
  }
  return {chart};
}

int run_distil(const DistilArguments& a) {
  DistilPlan plan{.base = {}, .students = {}, .seeds = a.quick ? std::min(a.seeds, 2) : a.seeds};
  if (!a.config_file.empty()) apply_settings(plan.base, load_settings(a.config_file));
  apply_settings(plan.base, a.settings);
  if (plan.base.task.empty()) plan.base.task = "distil";
  if (plan.base.task != "distil") {
    fail("study", "the task is '{}'. Students learn the task distil.", plan.base.task);
  }
  plan.base.keep = 1;  // a student has 14 million numbers
  if (a.quick) plan.base.steps = 20;
  plan.students = chosen_students(plan.base, a.students);
  const fs::path folder = fs::path(a.out) / "runs";
  const Report report(a.out, a.json, {a.config_file, folder});
  const std::vector<PlannedRun> runs = distil_runs(plan);
  for (const PlannedRun& run : runs)
    const Layer layer(run.config.layer());  // its errors come first

  Progress progress(stderr, Progress::style_for(stderr));
  const Task task = load_task(plan.base, [&](std::string_view text) { progress.message(text); });
  stop_on_signals();
  const int jobs =
      a.jobs > 0 ? a.jobs : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const RunsOptions options{.folder = folder,
                            .program = fs::read_symlink("/proc/self/exe"),
                            .jobs = jobs,
                            .stop = &stop_signal,
                            .message = [&](std::string_view line) { progress.message(line); }};
  bool failed = false;
  for (const RunOutcome& outcome : make_runs(runs, options)) {
    failed = failed || outcome.state == RunState::failed;
  }
  if (const int signal = stop_signal.load(); signal != 0) {
    progress.message("stopped; the same command goes on");
    return 128 + signal;
  }
  progress.message("reading the texts held out with each student");
  const std::vector<DistilRow> rows = compare_students(plan, folder, task);
  ordered_json list = ordered_json::array();
  for (const DistilRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(
      list, distil_charts(rows), {distil_table(rows)}, Device::cpu,
      fmt::format("accuracy over {} texts held out; difference to the first, paired by seed; "
                  "McNemar's exact test text by text, by Holm over the table",
                  task.test.x.size(0)));
  return failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_distil(CLI::App& study, Global& global) {
  const auto a = std::make_shared<DistilArguments>();
  CLI::App& command = add_command(
      study, "distil", "Does the router matter for what a student learns of its teacher?",
      kDistilExample);
  command.add_option("--config", a->config_file, "JSON with the settings that all have in common")
      ->type_name("FILE");
  command
      .add_option_function<std::vector<std::string>>(
          "--set",
          [a](const std::vector<std::string>& pairs) {
            for (const auto& [key, value] : option_map("study", pairs)) {
              a->settings.emplace_back(key, value);
            }
          },
          "a setting of moegrad train for all, as in its JSON; may be repeated")
      ->type_name("key=value")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      .add_option("--students", a->students,
                  "some of them, a,b; the first is what others are compared with [all]")
      ->type_name("NAMES")
      ->delimiter(',');
  add_number(command, "--seeds", a->seeds, 1, 1000, "runs of each student [3]");
  add_number(command, "--jobs", a->jobs, 0, 1024, "processes at a time; 0: as many as cores [0]");
  command.add_flag("--quick", a->quick, "two seeds of 20 steps: does it work?");
  command.add_option("--out", a->out, "folder of the runs and the report [runs/distil]")
      ->type_name("DIR");
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run_distil(*a); });
}

}  // namespace moegrad
