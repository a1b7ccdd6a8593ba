// compare, and the same over points: sweep, scale.

#include <memory>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/training_study.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kCompareExample =
    "moegrad study compare --config examples/configs/language-xs.json --seeds 4\n"
    "  moegrad study compare --config examples/configs/language-xs.json --trunk 500 --seeds 3 \\\n"
    "    --method \"top-k:\" --method \"dense: estimator=ste-dense\"";
constexpr std::string_view kSweepExample =
    "moegrad study sweep --config examples/configs/language-xs.json --grid k=1,2,4 --grid "
    "experts=8,16\n"
    "  moegrad study sweep --config examples/configs/language-xs.json --grid batch=8,16,32";
constexpr std::string_view kScaleExample =
    "moegrad study scale --config examples/configs/language-xs.json --seeds 3";

struct CompareArguments : TrainingStudy {
  std::int64_t trunk = 0;
  bool equal_operations = false;
  std::vector<std::string> grid;
  std::vector<std::string> points;
};

// Sizes of a language model, as of examples/configs/.
std::vector<Variant> sizes() {
  return {read_variant("XS: width=64 layers=3 hidden=88 steps=2000 warmup=20 evaluate_every=200"),
          read_variant("S: width=96 layers=3 hidden=128 steps=4000 warmup=40 evaluate_every=400"),
          read_variant("M: width=128 layers=4 hidden=176 steps=6836 warmup=68 evaluate_every=400")};
}

std::vector<Variant> few_methods() {
  return {{"top-k", {}},
          {"all", {{"router", "softmax"}, {"aux", "-1"}}},
          {"ste-dense", {{"estimator", "ste-dense"}}},
          {"ste-dense-router", {{"estimator", "ste-dense-router"}}},
          {"expert-group", {{"estimator", "expert-group"}}}};
}

void run_plan(const CompareArguments& a, StudyPlan plan, int& exit_code) {
  const Report report(a.out, a.json, {a.config_file, a.runs()});
  if (a.trunk > 0) {
    plan.trunk = {{"steps", std::to_string(a.trunk)}, {"schedule", "constant"}};
  }
  if (a.equal_operations) {
    plan.methods = with_equal_operations(plan.base, plan.methods, load_task(plan.base));
  }
  const MadeRuns made = make_study(a, plan);
  exit_code = made.code.value_or(made.failed ? kCheckFailed : kOk);
  if (made.code) return;
  const std::vector<CompareRow> rows = compare(plan, a.runs(), a.margin);
  ordered_json list = ordered_json::array();
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, {chart_of(rows)}, {table_of(rows)}, Device::cpu, kCompareLegend, made.data);
}

void add_trunk(CLI::App& command, CompareArguments& a) {
  add_number<std::int64_t>(command, "--trunk", a.trunk, 0, 1'000'000'000,
                           "steps that all share before they part; 0: none [0]");
}

}  // namespace

void add_study_compare(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CompareArguments>();
  CLI::App& command = add_training_study(
      study, a, "compare", "Which way to train ends with the lower loss, and is that real?",
      kCompareExample);
  add_trunk(command, *a);
  command.add_flag("--equal-operations", a->equal_operations,
                   "costlier methods once more, NAME@ops, with the steps that the first one's "
                   "operations pay for");
  command.callback([a, &global] {
    StudyPlan plan = plan_of(*a);
    if (plan.methods.empty()) plan.methods = usual_methods(plan.base);
    run_plan(*a, std::move(plan), global.exit_code);
  });
}

void add_study_sweep(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CompareArguments>();
  CLI::App& command = add_training_study(
      study, a, "sweep", "Does the difference depend on k, experts, batch or another setting?",
      kSweepExample);
  add_texts(command, "--grid", a->grid,
            "\"key=value,value\", every combination of which is compared; k is active");
  add_texts(command, "--point", a->points,
            "\"NAME: key=value ...\", further points; all are compared with the first");
  add_trunk(command, *a);
  command.callback([a, &global] {
    StudyPlan plan = plan_of(*a);
    if (a->grid.empty() && a->points.empty()) fail("study", "no grid is given. Give --grid.");
    if (!a->grid.empty()) plan.points = grid_of(a->grid);
    if (a->grid.empty()) plan.points.clear();
    for (const std::string& text : a->points) plan.points.push_back(read_variant(text));
    if (plan.methods.empty()) plan.methods = few_methods();
    run_plan(*a, std::move(plan), global.exit_code);
  });
}

void add_study_scale(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CompareArguments>();
  CLI::App& command = add_training_study(
      study, a, "scale", "Does the difference grow with the size of a language model (XS, S, M)?",
      kScaleExample);
  add_trunk(command, *a);
  command.callback([a, &global] {
    StudyPlan plan = plan_of(*a);
    if (plan.base.task != "language") {
      fail("study",
           "the task is '{}', and the sizes are those of a language model. Give "
           "--task language, or use study sweep with points of your own.",
           plan.base.task);
    }
    plan.points = sizes();
    if (plan.methods.empty()) plan.methods = few_methods();
    run_plan(*a, std::move(plan), global.exit_code);
  });
}

}  // namespace moegrad
