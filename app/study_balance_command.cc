#include <memory>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/loads.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kBalanceExample =
    "moegrad study balance --config examples/configs/language-xs.json --seeds 3";

struct BalanceArguments : TrainingStudy {
  int parts = 5;
};

Table table_of_loads(const std::vector<LoadRow>& rows, int parts) {
  Table table;
  table.add({"at", "method", "layer", "of training", "load max/mean", "entropy", "dead experts"});
  for (const LoadRow& row : rows) {
    if (row.part != 1 && row.part != parts) continue;
    table.add({row.point, row.method, fmt::format("{}", row.layer),
               fmt::format("part {} of {}", row.part, parts), cell(row.mean.max_mean, 2),
               cell(row.mean.entropy, 3), cell(row.mean.dead, 2)});
  }
  return table;
}

// Of each point and method, the mean over the layers along training.
Chart chart_of_loads(const StudyPlan& plan, const std::vector<LoadRow>& rows, int parts) {
  Chart chart{.title = "largest load of an expert by the mean, along training",
              .axis = "max/mean",
              .lines = true};
  for (int part = 1; part <= parts; ++part) chart.labels.push_back(fmt::format("{}", part));
  for (const Variant& point : plan.points) {
    for (const Variant& method : plan.methods) {
      Series& series = chart.series.emplace_back(Series{method.name + " " + point.name, {}});
      for (int part = 1; part <= parts; ++part) {
        double sum = 0.0;
        double layers = 0.0;
        for (const LoadRow& row : rows) {
          if (row.point != point.name || row.method != method.name || row.part != part) continue;
          sum += row.mean.max_mean;
          layers += 1.0;
        }
        series.values.push_back(sum / layers);
      }
    }
  }
  return chart;
}

int run_balance(const BalanceArguments& a) {
  StudyPlan plan = plan_of(a);
  plan.points = points_of_balance();
  if (plan.methods.empty()) plan.methods = methods_of_balance();
  if (a.quick) plan.base.log_every = 2;
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const std::vector<CompareRow> rows = compare(plan, a.runs(), a.margin);
  const std::vector<LoadRow> loads = loads_along(plan, a.runs(), a.parts);
  ordered_json list = ordered_json::array();
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  for (const LoadRow& row : loads) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, {chart_of(rows), chart_of_loads(plan, loads, a.parts)},
               {table_of_loads(loads, a.parts), table_of(rows)}, Device::cpu,
               std::string(kCompareLegend) +
                   "\nchange: of that difference to the one with the balance loss aux\ndead: less "
                   "than a hundredth of an even share; entropy: 1 where all loads are even",
               made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_balance(CLI::App& study, Global& global) {
  const auto a = std::make_shared<BalanceArguments>();
  CLI::App& command = add_training_study(
      study, a, "balance",
      "Is a more even load the cause? The differences with the balance loss, loss-free, and none.",
      kBalanceExample);
  add_number(command, "--parts", a->parts, 1, 1000, "parts of the training to tell loads of [5]");
  command.callback([a, &global] { global.exit_code = run_balance(*a); });
}

}  // namespace moegrad
