#include <algorithm>
#include <memory>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/finetune.h"
#include "train/language.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kFinetuneExample =
    "moegrad study finetune --config examples/configs/language-xs.json --seeds 3 \\\n"
    "    --source domains=prose,shakespeare --set domains=code --set steps=500";

struct FinetuneArguments : TrainingStudy {
  Settings source;
};

Table table_of_forgetting(const std::vector<ForgettingRow>& rows) {
  Table table;
  table.add({"method", "source before", "source after", "difference", "error", "verdict"});
  for (const ForgettingRow& row : rows) {
    const PairedDifference& d = row.judged.difference;
    const bool first = &row == &rows.front();
    table.add({row.method, cell(row.before, 4), cell(row.after, 4), first ? "-" : cell(d.mean, 4),
               first ? "-" : cell(d.error, 4), first ? "-" : verdict_text(d, row.judged.verdict)});
  }
  return table;
}

int run_finetune(const FinetuneArguments& a) {
  StudyPlan plan = plan_of(a);
  if (a.source.empty()) {
    fail("study",
         "no source is given. Give what differs where the model comes from: --source "
         "domains=prose.");
  }
  plan.trunk = a.source;
  if (plan.methods.empty()) plan.methods = methods_of_finetune();
  TrainConfig source = plan.base;
  apply_settings(source, a.source);
  // One model reads both: in the pieces that it learned first.
  if (source.pieces > kBytes && plan.base.pieces_from.empty()) {
    if (source.pieces_from.empty()) source.pieces_from = source.domains;
    plan.base.pieces_from = source.pieces_from;
  }
  const Task source_task = load_task(source);
  if (const Task target = load_task(plan.base); !(source_task.shape() == target.shape())) {
    fail("study",
         "the source '{}' and the target '{}' are data of other kinds, or text in other pieces: "
         "one model cannot read both. Give a source of the same kind, and what says the kind by "
         "--set, which is for both.",
         source_task.name, target.name);
  }
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const std::vector<CompareRow> rows = compare(plan, a.runs(), a.margin);
  const std::vector<ForgettingRow> forgotten =
      forgetting(plan, a.runs(), test_data_of_seeds(source, plan.seeds), a.margin);
  ordered_json list = ordered_json::array();
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  for (const ForgettingRow& row : forgotten) list.push_back(ordered_json::parse(to_json(row)));
  report.write(
      list, {chart_of(rows)}, {table_of(rows), table_of_forgetting(forgotten)}, Device::cpu,
      std::string(kCompareLegend) +
          "\nabove: losses on the data that it goes on with; below: on those it comes from",
      made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_finetune(CLI::App& study, Global& global) {
  const auto a = std::make_shared<FinetuneArguments>();
  CLI::App& command = add_training_study(
      study, a, "finetune",
      "A model that the first method has trained goes on with other data, with every estimator.",
      kFinetuneExample);
  command
      .add_option_function<std::vector<std::string>>(
          "--source",
          [a](const std::vector<std::string>& pairs) {
            for (const auto& [key, value] : option_map("study", pairs)) {
              a->source.emplace_back(key, value);
            }
          },
          "a setting of the runs that it comes from: domains=prose, steps=2000; may be repeated")
      ->type_name("key=value")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.callback([a, &global] { global.exit_code = run_finetune(*a); });
}

}  // namespace moegrad
