#include <memory>

#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/inference.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kInferenceExample =
    "moegrad study inference --config examples/configs/language-xs.json --seeds 2\n"
    "  moegrad study inference --task synthetic --method \"top-k:\" --method \"moesart: "
    "router=moesart\"";
constexpr std::string_view kInferenceLegend =
    "gap: of the loss on test data, with what the layers do in training less with what they do at "
    "inference\nbits: all of what the model tells of a batch, beside the estimator sparse; forward "
    "is off where it is an option";

struct InferenceArguments : TrainingStudy {
  int draws = 4;
};

Table table_of(const std::vector<GapRow>& rows) {
  Table table;
  table.add({"method", "in training", "at inference", "gap", "error", "experts in training",
             "at inference"});
  for (const GapRow& row : rows) {
    const ModeGap& m = row.mean;
    table.add({row.method, cell(m.training, 4), cell(m.inference, 4),
               cell(m.training - m.inference, 4), cell(m.error, 4), cell(m.experts_training, 2),
               cell(m.experts_inference, 2)});
  }
  return table;
}

Table table_of(const std::vector<BitsRow>& rows) {
  Table table;
  table.add({"estimator", "backward only", "bits in training", "bits at inference"});
  const auto bits = [](bool same, double difference) {
    return same ? std::string("the same") : fmt::format("differ by {:.1e}", difference);
  };
  for (const BitsRow& row : rows) {
    table.add({row.estimator, row.backward_only ? "yes" : "no",
               bits(row.same_training, row.training), bits(row.same_inference, row.inference)});
  }
  return table;
}

Chart chart_of_gaps(const std::vector<GapRow>& rows) {
  Chart chart{.title = "loss in training less loss at inference", .axis = "nats"};
  chart.series = {{"gap", {}}};
  for (const GapRow& row : rows) {
    chart.labels.push_back(row.method);
    chart.series[0].values.push_back(row.mean.training - row.mean.inference);
  }
  return chart;
}

int run_inference(const InferenceArguments& a) {
  StudyPlan plan = plan_of(a);
  const Task task = study_task(plan.base);
  std::vector<std::string> left_out;
  if (plan.methods.empty()) plan.methods = every_router(plan.base, task.shape(), left_out);
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  for (const std::string& reason : left_out) put(stderr, "left out: {}\n", reason);
  const MadeRuns made = make_study(a, plan);
  if (made.code) return *made.code;
  const std::vector<GapRow> gaps =
      gaps_of(plan, a.runs(), test_data_of_seeds(plan.base, plan.seeds), a.draws);
  ordered_json list = ordered_json::array();
  for (const GapRow& row : gaps) list.push_back(ordered_json::parse(to_json(row)));
  std::vector<Table> tables = {table_of(gaps)};
  if (gaps.front().runs > 0) {
    const auto run = a.runs() / run_name(plan.points.front(), plan.methods.front().name, 1);
    const StoredModel model = load_model(checkpoint_of(run));
    const std::vector<BitsRow> bits =
        bits_of_estimators(model, Batches(task.test, plan.base.batch).get(0));
    for (const BitsRow& row : bits) list.push_back(ordered_json::parse(to_json(row)));
    tables.push_back(table_of(bits));
  }
  report.write(list, {chart_of_gaps(gaps)}, tables, Device::cpu, kInferenceLegend, made.data);
  return made.failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_inference(CLI::App& study, Global& global) {
  const auto a = std::make_shared<InferenceArguments>();
  CLI::App& command = add_training_study(
      study, a, "inference", "What changes between training and inference, for every router?",
      kInferenceExample);
  add_number(command, "--draws", a->draws, 1, 10000, "of what is drawn in training [4]");
  command.callback([a, &global] { global.exit_code = run_inference(*a); });
}

}  // namespace moegrad
