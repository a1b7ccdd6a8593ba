#include <atomic>
#include <csignal>
#include <memory>
#include <thread>

#include "app/commands.h"
#include "app/stop_signal.h"
#include "app/study_report.h"
#include "lab/compare.h"
#include "train/progress.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kCompareExample =
    "moegrad study compare --config examples/configs/language-xs.json --seeds 4\n"
    "  moegrad study compare --config examples/configs/language-xs.json --trunk 500 --seeds 3 \\\n"
    "    --method \"top-k:\" --method \"dense: estimator=ste-dense\"";

struct CompareArguments {
  std::string config_file;
  Settings settings;
  std::vector<std::string> methods;
  int seeds = 4;
  std::int64_t trunk = 0;
  double margin = kMargin;
  int jobs = 0;
  bool quick = false;
  bool estimate = false;
  std::string out = "runs/compare";
  JsonOutput json;
};

// What --quick makes of it: an answer in minutes, not a precise one.
void make_quick(ComparePlan& plan) {
  plan.seeds = std::min(plan.seeds, 2);
  plan.base.steps = std::min<std::int64_t>(plan.base.steps > 0 ? plan.base.steps : 60, 60);
  plan.base.evaluate_every = 10;
  if (plan.trunk > 0) plan.trunk = std::min<std::int64_t>(plan.trunk, 30);
}

Table table_of(const std::vector<CompareRow>& rows) {
  Table table;
  table.add({"method", "loss", "difference", "error", "95 % interval", "verdict", "load max/mean",
             "gradient norm", "s/step"});
  for (const CompareRow& row : rows) {
    const PairedDifference& d = row.difference;
    const bool first = &row == &rows.front();
    table.add({row.method, cell(row.mean.loss, 4), first ? "-" : cell(d.mean, 4),
               first ? "-" : cell(d.error, 4),
               first || d.pairs < 2 ? "-" : fmt::format("{:.4f} to {:.4f}", d.low, d.high),
               first ? "-" : std::string(name_of(row.verdict)), cell(row.mean.load, 2),
               cell(row.mean.gradient_norm, 3), cell(row.mean.step_seconds, 3)});
  }
  return table;
}

std::vector<Chart> charts_of(const std::vector<CompareRow>& rows) {
  Chart chart{.title = "loss less that of " + rows.front().method, .axis = "nats"};
  for (const CompareRow& row : rows) {
    if (&row == &rows.front()) continue;
    chart.labels.push_back(row.method);
  }
  chart.series = {{"difference", {}}, {"low", {}}, {"high", {}}};
  for (std::size_t i = 1; i < rows.size(); ++i) {
    chart.series[0].values.push_back(rows[i].difference.mean);
    chart.series[1].values.push_back(rows[i].difference.low);
    chart.series[2].values.push_back(rows[i].difference.high);
  }
  return {chart};
}

double seconds_of(const std::vector<PlannedRun>& runs, const Task& task) {
  double seconds = 0.0;
  std::map<std::string, double> of_step;  // of one method it is the same with any seed
  for (const PlannedRun& run : runs) {
    const std::string method = run.name.substr(0, run.name.rfind("-s"));
    if (!of_step.contains(method)) of_step[method] = seconds_of_step(run.config, task);
    const std::int64_t steps =
        run.config.steps > 0 ? run.config.steps
                             : run.config.epochs * Batches(task.train, run.config.batch).size();
    seconds += of_step[method] * static_cast<double>(steps);
  }
  return seconds;
}

int run_compare(const CompareArguments& a) {
  ComparePlan plan{.base = {}, .methods = {}, .seeds = a.seeds, .trunk = a.trunk};
  if (!a.config_file.empty()) apply_settings(plan.base, load_settings(a.config_file));
  apply_settings(plan.base, a.settings);
  if (plan.base.task.empty()) fail("study", "no task is given. Give --config or --task.");
  for (const std::string& text : a.methods) plan.methods.push_back(read_method(text));
  if (plan.methods.empty()) plan.methods = usual_methods(plan.base);
  if (a.quick) make_quick(plan);
  const fs::path folder = fs::path(a.out) / "runs";
  const Report report(a.out, a.json, {a.config_file, folder});
  const std::vector<PlannedRun> trunks = trunks_of(plan);
  const std::vector<PlannedRun> runs = runs_of(plan, folder);
  for (const PlannedRun& run : runs)
    const Layer layer(run.config.layer());  // its errors come first

  const int jobs =
      a.jobs > 0 ? a.jobs : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const Task task = load_task(plan.base);
  const double estimate = (seconds_of(trunks, task) + seconds_of(runs, task)) / jobs;
  Progress progress(stderr, Progress::style_for(stderr));
  progress.message(fmt::format("{} runs, {} at a time: about {}, without evaluations",
                               trunks.size() + runs.size(), jobs, duration_text(estimate)));
  if (a.estimate) return kOk;
  stop_on_signals();
  const RunsOptions options{.folder = folder,
                            .program = fs::read_symlink("/proc/self/exe"),
                            .jobs = jobs,
                            .stop = &stop_signal,
                            .message = [&](std::string_view line) { progress.message(line); }};
  bool failed = false;
  for (const auto* const part : {&trunks, &runs}) {
    for (const RunOutcome& outcome : make_runs(*part, options)) {
      failed = failed || outcome.state == RunState::failed;
    }
  }
  if (const int signal = stop_signal.load(); signal != 0) {
    progress.message("stopped; the same command goes on");
    return 128 + signal;
  }
  const std::vector<CompareRow> rows = compare(plan, folder, a.margin);
  ordered_json list = ordered_json::array();
  for (const CompareRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, charts_of(rows), table_of(rows), Device::cpu,
               "difference: of the loss to the first, paired by seed; verdicts at 5 % by Holm");
  return failed ? kCheckFailed : kOk;
}

}  // namespace

void add_study_compare(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CompareArguments>();
  CLI::App& command = add_command(study, "compare",
                                  "Which way to train ends with the lower loss, and is that real?",
                                  kCompareExample);
  command.add_option("--config", a->config_file, "JSON with the settings that all have in common")
      ->type_name("FILE");
  command
      .add_option_function<std::string>(
          "--task", [a](const std::string& task) { a->settings.emplace_back("task", task); },
          "what to learn")
      ->type_name("NAME");
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
      .add_option("--method", a->methods,
                  "\"NAME: key=value ...\", what one sets besides; the first is what others are "
                  "compared with; may be repeated [top-k and every dense gradient]")
      ->type_name("TEXT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add_number(command, "--seeds", a->seeds, 1, 1000, "runs of each method [4]");
  add_number<std::int64_t>(command, "--trunk", a->trunk, 0, 1'000'000'000,
                           "steps that all share before they part; 0: none [0]");
  add_number(command, "--margin", a->margin, 0.0, 1e6,
             "nats within which a difference does not matter [0.005]");
  add_number(command, "--jobs", a->jobs, 0, 1024, "processes at a time; 0: as many as cores [0]");
  command.add_flag("--quick", a->quick, "two seeds of 60 steps: does it work?");
  command.add_flag("--estimate", a->estimate, "only say how long it would take");
  command.add_option("--out", a->out, "folder of the runs and the report [runs/compare]")
      ->type_name("DIR");
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run_compare(*a); });
}

}  // namespace moegrad
