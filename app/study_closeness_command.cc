#include <memory>

#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/closeness.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kClosenessExample =
    "moegrad study closeness --config examples/configs/language-xs.json --seeds 3";

struct ClosenessArguments : TrainingStudy {
  std::int64_t batch = 16;
};

Table table_of(const std::vector<ClosenessRow>& rows) {
  Table table;
  table.add({"method", "cosine", "norm ratio", "output error", "difference", "error"});
  for (const ClosenessRow& row : rows) {
    const bool first = &row == &rows.front();
    table.add({row.method, cell(row.cosine, 4), cell(row.norm_ratio, 4), cell(row.output_error, 4),
               first ? "-" : cell(row.difference.mean, 4),
               first ? "-" : cell(row.difference.error, 4)});
  }
  return table;
}

Chart chart_of_closeness(const std::vector<ClosenessRow>& rows) {
  Chart chart{.title = "router gradient: cosine to ste-dense", .axis = "cosine"};
  chart.series = {{"cosine", {}}};
  for (const ClosenessRow& row : rows) {
    chart.labels.push_back(row.method);
    chart.series[0].values.push_back(row.cosine);
  }
  return chart;
}

int run_closeness(const ClosenessArguments& a) {
  StudyPlan plan = plan_of(a);
  if (plan.methods.empty()) plan.methods = methods_of_closeness();
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const std::vector<CompareRow> rows = compare(plan, a.runs(), a.margin);
  const std::vector<ClosenessRow> closeness =
      closeness_of(plan, a.runs(), study_task(plan.base), rows, a.batch);
  ordered_json list = ordered_json::array();
  for (const ClosenessRow& row : closeness) list.push_back(ordered_json::parse(to_json(row)));
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  const double rho = rank_correlation(closeness);
  report.write(
      list, {chart_of_closeness(closeness), chart_of(rows)}, {table_of(closeness), table_of(rows)},
      Device::cpu,
      fmt::format("router gradients in the first method's models at their end, beside ste-dense's; "
                  "rank correlation of cosine and difference: {} (-1: the closer, the lower the "
                  "loss)\n{}",
                  cell(rho, 2), kCompareLegend),
      made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_closeness(CLI::App& study, Global& global) {
  const auto a = std::make_shared<ClosenessArguments>();
  CLI::App& command = add_training_study(
      study, a, "closeness", "Does an estimator that is closer to the dense gradient train better?",
      kClosenessExample);
  add_number<std::int64_t>(command, "--batch", a->batch, 1, 65536,
                           "examples to measure gradients on [16]");
  command.callback([a, &global] { global.exit_code = run_closeness(*a); });
}

}  // namespace moegrad
