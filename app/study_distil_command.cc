#include <algorithm>
#include <memory>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/distil.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kDistilExample =
    "moegrad study distil --config examples/configs/distil.json --seeds 3\n"
    "  moegrad study distil --config examples/configs/distil.json --students top-k,moesart,all";

// Evaluations of the runs themselves take so many, where test_examples is not told; the study then reads
// all.
constexpr std::int64_t kTextsOfRuns = 1000;

struct DistilArguments : TrainingStudy {
  std::vector<std::string> students;
};

std::vector<Variant> chosen_students(const TrainConfig& base,
                                     const std::vector<std::string>& names) {
  const std::vector<Variant> all = distil_students(base);
  if (names.empty()) return all;
  std::vector<Variant> chosen;
  for (const std::string& name : names) {
    std::vector<std::string> known;
    for (const Variant& student : all) {
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

int run_distil(DistilArguments a) {
  if (a.config_file.empty()) a.settings.insert(a.settings.begin(), {"task", "distil"});
  StudyPlan plan = plan_of(a);
  if (plan.base.task != "distil") {
    fail("study", "the task is '{}'. Students learn the task distil.", plan.base.task);
  }
  plan.base.keep = 1;  // a student has 14 million numbers
  const TrainConfig of_all = plan.base;
  const auto tells = [](const Settings& settings) {
    return std::ranges::any_of(settings, [](const auto& s) { return s.first == "test_examples"; });
  };
  const bool told = a.quick || tells(a.settings) ||
                    (!a.config_file.empty() && tells(load_settings(a.config_file)));
  if (!told) plan.base.test_examples = kTextsOfRuns;
  if (plan.methods.empty()) plan.methods = chosen_students(plan.base, a.students);
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const Task task = study_task(of_all);
  const std::vector<DistilRow> rows = compare_students(plan, a.runs(), task);
  ordered_json list = ordered_json::array();
  for (const DistilRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(
      list, distil_charts(rows), {distil_table(rows)}, Device::cpu,
      fmt::format("accuracy over {} texts held out; difference to the first, paired by seed; "
                  "McNemar's exact test text by text, by Holm over the table",
                  task.test.x.size(0)),
      made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_distil(CLI::App& study, Global& global) {
  const auto a = std::make_shared<DistilArguments>();
  a->seeds = 3;
  a->quick_steps = 20;
  CLI::App& command = add_training_study(
      study, a, "distil", "Does the router matter for what a student learns of its teacher?",
      kDistilExample);
  command.remove_option(command.get_option("--margin"));  // of losses
  command
      .add_option("--students", a->students,
                  "some of them, a,b; the first is what others are compared with [all]")
      ->type_name("NAMES")
      ->delimiter(',')
      ->excludes("--method");
  command.callback([a, &global] { global.exit_code = run_distil(*a); });
}

}  // namespace moegrad
