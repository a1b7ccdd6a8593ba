#include <memory>

#include "app/checkpoint_study.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/counterfactual.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kCounterfactualExample =
    "moegrad study counterfactual runs/language-xs --routes 16";
constexpr std::string_view kCounterfactualLegend =
    "better: with a lower loss than the route that was chosen, of as many experts; regret: loss "
    "less "
    "that of the best route tried\nchange: loss of a tried route less that of the chosen one, in "
    "the "
    "mean; tokens by the largest probability that the model gives";

struct CounterfactualArguments : CheckpointStudy {
  CounterfactualOptions options;
  int parts = 4;
};

Table table_of(const std::vector<CounterfactualRow>& rows, int parts) {
  Table table;
  table.add({"run", "layer", "tokens", "number", "confidence", "loss", "with a better route",
             "better routes", "regret", "change"});
  const auto percent = [](double part) {
    return std::isnan(part) ? std::string("-") : fmt::format("{:.1f} %", 100.0 * part);
  };
  for (const CounterfactualRow& row : rows) {
    table.add({shown(row.run), fmt::format("{}", row.layer),
               row.part == 0 ? "all" : fmt::format("part {} of {}", row.part, parts),
               fmt::format("{}", row.tokens), cell(row.confidence, 3), cell(row.loss, 4),
               percent(row.better_tokens), percent(row.better_routes), cell(row.regret, 4),
               cell(row.change, 4)});
  }
  return table;
}

Chart chart_of_regret(const std::vector<CounterfactualRow>& rows) {
  Chart chart{.title = "regret by confidence", .axis = "nats"};
  for (const CounterfactualRow& row : rows) {
    if (row.run != rows.front().run || row.part == 0) continue;
    const auto layer = static_cast<std::size_t>(row.layer);
    if (layer >= chart.series.size()) {
      chart.series.push_back({fmt::format("layer {}", row.layer), {}});
    }
    chart.series[layer].values.push_back(row.regret);
    if (layer == 0) chart.labels.push_back(fmt::format("{:.2f}", row.confidence));
  }
  chart.lines = chart.labels.size() > 1;
  return chart;
}

int run_counterfactual(const CounterfactualArguments& a) {
  for (const std::string& run : a.runs) checkpoint_of(run);  // its errors come first
  const Report report(a.out, a.json, a.runs);
  std::vector<CounterfactualRow> rows;
  std::string data;
  for_each_run(a, [&](const std::string& run) {
    const Task task = task_with_rows(a, run);
    data = data_text(task);
    const StoredModel model = load_model(checkpoint_of(run));
    const std::vector<CounterfactualRow> more =
        counterfactual(run, model, task.test, a.options, a.parts);
    rows.insert(rows.end(), more.begin(), more.end());
  });
  ordered_json list = ordered_json::array();
  for (const CounterfactualRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, {chart_of_regret(rows)}, {table_of(rows, a.parts)}, Device::cpu,
               kCounterfactualLegend, data);
  return kOk;
}

}  // namespace

void add_study_counterfactual(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CounterfactualArguments>();
  CLI::App& command =
      add_checkpoint_study(study, a, "counterfactual",
                           "Were there better routes of equal cost that the router did not choose?",
                           kCounterfactualExample);
  add_number(command, "--routes", a->options.routes, 1, 10000, "other routes for each token [16]");
  add_number(command, "--temperature", a->options.temperature, 0.0, 1e6,
             "of the Gumbel noise on the logits that draws them [1]");
  add_number(command, "--parts", a->parts, 1, 1000, "parts of the tokens, by confidence [4]");
  add_number<std::uint64_t>(command, "--seed", a->options.seed, 0, (1ULL << 53) - 1,
                            "of the noise [1]");
  command.callback([a, &global] { global.exit_code = run_counterfactual(*a); });
}

}  // namespace moegrad
