#include <algorithm>
#include <memory>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/learning_rate.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kRateExample =
    "moegrad study learning-rate --config examples/configs/language-xs.json --seeds 3\n"
    "  moegrad study learning-rate --config examples/configs/language-xs.json --rates "
    "0.001,0.002,0.004";

struct RateArguments : TrainingStudy {
  std::vector<double> rates;
};

Table table_of_rates(const std::vector<CompareRow>& rows) {
  Table table;
  table.add({"at", "method", "loss", "difference", "gradient norm", "after clipping", "clipped"});
  for (const CompareRow& row : rows) {
    table.add(
        {row.point, row.method, cell(row.mean.loss, 4),
         row.difference.pairs == 0 ? "-" : cell(row.difference.mean, 4),
         cell(row.mean.gradient_norm, 3), cell(row.mean.clipped_norm, 3),
         std::isnan(row.mean.clipped) ? "-" : fmt::format("{:.0f} %", 100.0 * row.mean.clipped)});
  }
  return table;
}

Table table_of_best(const std::vector<BestRate>& rows) {
  Table table;
  table.add({"method", "best rate", "loss", "difference", "error", "95 % interval", "verdict"});
  for (const BestRate& row : rows) {
    const PairedDifference& d = row.judged.difference;
    const bool first = &row == &rows.front();
    table.add({row.method,
               std::isnan(row.rate) ? "-" : fmt::format("{}{}", row.rate, row.at_edge ? " *" : ""),
               cell(row.mean.loss, 4), first || d.pairs == 0 ? "-" : cell(d.mean, 4),
               first || d.pairs < 2 ? "-" : cell(d.error, 4),
               first || d.pairs < 2 ? "-" : fmt::format("{:.4f} to {:.4f}", d.low, d.high),
               first ? "-" : verdict_text(d, row.judged.verdict)});
  }
  return table;
}

Chart chart_of_rates(const std::vector<Variant>& methods, const std::vector<CompareRow>& rows) {
  Chart chart{.title = "loss at each learning rate", .axis = "nats", .lines = true};
  for (const Variant& method : methods) {
    Series& series = chart.series.emplace_back(Series{method.name, {}});
    for (const CompareRow& row : rows) {
      if (row.method != method.name) continue;
      series.values.push_back(row.mean.loss);
      if (&method == &methods.front()) chart.labels.push_back(row.point);
    }
  }
  return chart;
}

int run_rates(const RateArguments& a) {
  StudyPlan plan = plan_of(a);
  std::vector<double> rates = a.rates;
  if (rates.empty()) {
    for (const double factor : {0.25, 0.5, 1.0, 2.0, 4.0}) rates.push_back(factor * plan.base.lr);
  }
  std::ranges::sort(rates);
  if (a.quick && rates.size() > 3) rates = {rates.front(), rates[rates.size() / 2], rates.back()};
  plan.points = points_of_rates(rates);
  if (plan.methods.empty()) plan.methods = methods_of_size();
  for (const Variant& method : plan.methods) {
    for (const auto& [key, value] : method.settings) {
      if (key != "lr") continue;
      fail("study", "method {} sets lr, which this study sweeps. Leave it out, or use --rates.",
           method.name);
    }
  }
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const std::vector<CompareRow> rows = compare(plan, a.runs(), a.margin);
  const std::vector<BestRate> best = best_rates(plan.methods, rates, rows, a.margin);
  ordered_json list = ordered_json::array();
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  for (const BestRate& row : best) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, {chart_of_rates(plan.methods, rows)},
               {table_of_rates(rows), table_of_best(best)}, Device::cpu,
               "each method at its best rate, against the first method at its own; verdicts at 5 % "
               "by Holm\n*: at the edge of the sweep, the best rate may lie beyond it\nNAME-norms: "
               "the sparse gradient, each parameter's with the norm that NAME gives it",
               made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_learning_rate(CLI::App& study, Global& global) {
  const auto a = std::make_shared<RateArguments>();
  CLI::App& command = add_training_study(
      study, a, "learning-rate",
      "Is a gradient better, or only larger? Each method at its own best learning rate.",
      kRateExample);
  add_numbers(command, "--rates", a->rates, 0.0, 1e6,
              "learning rates [a quarter, half, once, twice, four times that of the settings]");
  command.callback([a, &global] { global.exit_code = run_rates(*a); });
}

}  // namespace moegrad
