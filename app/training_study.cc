#include "app/training_study.h"

#include <algorithm>
#include <map>
#include <thread>

#include "app/stop_signal.h"
#include "tensor/folders.h"
#include "train/progress.h"
#include "train/run_checks.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// Tasks by what they are loaded from; of one that depends on the seed any.
class LoadedTasks {
 public:
  explicit LoadedTasks(Progress& progress) : progress_(progress) {}
  const Task& operator()(const TrainConfig& config) {
    std::string key = config.dtype;
    for (const TrainField& field : train_fields()) {
      if (field.of_data) key += "\n" + field_text(config, field);
    }
    const auto found = tasks_.find(key);
    if (found != tasks_.end()) return found->second;
    const auto message = [&](std::string_view text) { progress_.message(text); };
    return tasks_.emplace(key, load_task(config, message)).first->second;
  }
  std::string checksum(const TrainConfig& config) {
    if (is_drawn(config.task) || config.task == "own") return checksum_of(load_task(config));
    const Task& task = (*this)(config);
    std::string& known = checksums_[&task];
    if (known.empty()) known = checksum_of(task);
    return known;
  }

 private:
  Progress& progress_;
  std::map<std::string, Task> tasks_;
  std::map<const Task*, std::string> checksums_;
};

double seconds_of(const std::vector<PlannedRun>& runs, LoadedTasks& tasks) {
  double seconds = 0.0;
  std::map<std::string, double> of_step;  // of one method it is the same with any seed
  for (const PlannedRun& run : runs) {
    const std::string method = run.name.substr(0, run.name.rfind("-s"));
    const Task& task = tasks(run.config);
    if (!of_step.contains(method)) of_step[method] = seconds_of_step(run.config, task);
    seconds += of_step[method] * static_cast<double>(steps_of(run.config, task));
  }
  return seconds;
}

}  // namespace

Task study_task(const TrainConfig& config) {
  Task task = load_task(config);
  task.test = evenly(task.test, config.test_examples);
  return task;
}

std::vector<Dataset> test_data_of_seeds(TrainConfig config, int seeds) {
  std::vector<Dataset> data;
  for (config.seed = 1; config.seed <= seeds; ++config.seed) {
    const bool known = !data.empty() && !is_drawn(config.task);
    data.push_back(known ? data.front() : study_task(config).test);
  }
  return data;
}

std::string data_text(const Task& task) {
  return fmt::format("data {}, crc {}", task.name, checksum_of(task));
}

CLI::Option* add_texts(CLI::App& command, const std::string& flag, std::vector<std::string>& texts,
                       const std::string& help) {
  return command.add_option(flag, texts, help)
      ->type_name("TEXT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

CLI::App& add_training_study(CLI::App& study, const std::shared_ptr<TrainingStudy>& a,
                             const std::string& name, const std::string& summary,
                             std::string_view example) {
  CLI::App& command = add_command(study, name, summary, example);
  a->out = "runs/" + name;
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
  add_texts(command, "--method", a->methods,
            "\"NAME: key=value ...\", what one sets besides; the first is what others are "
            "compared with; may be repeated");
  add_number(command, "--seeds", a->seeds, 1, 1000,
             fmt::format("runs of each method [{}]", a->seeds));
  add_number(command, "--margin", a->margin, 0.0, 1e6,
             "nats within which a difference does not matter [0.005]");
  add_number(command, "--jobs", a->jobs, 0, 1024, "processes at a time; 0: as many as cores [0]");
  command.add_flag("--quick", a->quick,
                   fmt::format("two seeds of {} steps, {} examples to test on: does it work?",
                               a->quick_steps, kQuickExamples));
  command.add_flag("--estimate", a->estimate, "only say how long it would take");
  command
      .add_option(
          "--reuse", a->reuse,
          "other studies, by their --out: a finished run of the same configuration and data "
          "is linked, not made again; may be repeated")
      ->type_name("DIR")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command.add_option("--out", a->out, "folder of the runs and the report [" + a->out + "]")
      ->type_name("DIR");
  add_json(command, a->json);
  return command;
}

StudyPlan plan_of(const TrainingStudy& a) {
  StudyPlan plan;
  plan.seeds = a.seeds;
  if (!a.config_file.empty()) apply_settings(plan.base, load_settings(a.config_file));
  apply_settings(plan.base, a.settings);
  if (plan.base.task.empty()) fail("study", "no task is given. Give --config or --task.");
  for (const std::string& text : a.methods) plan.methods.push_back(read_variant(text));
  if (!a.quick) return plan;
  plan.seeds = std::min(plan.seeds, 2);
  plan.most_steps = a.quick_steps;
  if (plan.base.test_examples == 0 || plan.base.test_examples > kQuickExamples) {
    plan.base.test_examples = kQuickExamples;
  }
  return plan;
}

MadeRuns make_study(const TrainingStudy& a, const StudyPlan& plan) {
  std::vector<fs::path> reuse;
  for (const std::string& study : a.reuse) {
    reuse.push_back(fs::path(study) / "runs");
    if (study.empty() || !folder_exists(reuse.back())) {
      fail("study", "there is no folder '{}' of runs to use again. Name that of a study.",
           reuse.back().string());
    }
  }
  const std::vector<PlannedRun> trunks = trunks_of(plan);
  const std::vector<PlannedRun> runs = runs_of(plan, a.runs());
  for (const PlannedRun& run : runs) check_run(run.config);
  const int jobs =
      a.jobs > 0 ? a.jobs : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Progress progress(stderr, Progress::style_for(stderr));
  LoadedTasks tasks(progress);
  const double estimate = (seconds_of(trunks, tasks) + seconds_of(runs, tasks)) / jobs;
  progress.message(fmt::format("{} runs, {} at a time: about {}, without evaluations",
                               trunks.size() + runs.size(), jobs, duration_text(estimate)));
  if (a.estimate) return {.code = kOk};
  stop_on_signals();
  const RunsOptions options{.folder = a.runs(),
                            .program = fs::read_symlink("/proc/self/exe"),
                            .jobs = jobs,
                            .reuse = reuse,
                            .data = [&](const TrainConfig& c) { return tasks.checksum(c); },
                            .stop = &stop_signal,
                            .message = [&](std::string_view line) { progress.message(line); }};
  MadeRuns made;
  made.data = data_text(tasks(plan.base));
  for (const auto* const part : {&trunks, &runs}) {
    for (const RunOutcome& outcome : make_runs(*part, options)) {
      made.failed = made.failed || outcome.state == RunState::failed;
    }
  }
  if (const int signal = stop_signal.load(); signal != 0) {
    progress.message("stopped; the same command goes on");
    made.code = 128 + signal;
  }
  return made;
}

Table table_of(const std::vector<CompareRow>& rows) {
  const auto any = [&](const auto& has) { return std::ranges::any_of(rows, has); };
  const bool grid = any([](const CompareRow& r) { return !r.point.empty(); });
  const bool gap = any([](const CompareRow& r) { return !std::isnan(r.gap); });
  Table table;
  const auto add = [&](std::vector<std::string> row, const std::string& point,
                       const std::string& change, const std::string& share) {
    if (gap) row.insert(row.begin() + 6, share);
    if (grid) row.insert(row.begin() + 6, change);
    if (grid) row.insert(row.begin(), point);
    table.add(std::move(row));
  };
  add({"method", "loss", "difference", "error", "95 % interval", "verdict", "load max/mean",
       "gradient norm", "s/step"},
      "at", "change", "gap closed");
  for (const CompareRow& row : rows) {
    const PairedDifference& d = row.difference;
    const bool first = row.method == rows.front().method;
    add({row.method, cell(row.mean.loss, 4), first ? "-" : cell(d.mean, 4),
         first ? "-" : cell(d.error, 4),
         first || d.pairs < 2 ? "-" : fmt::format("{:.4f} to {:.4f}", d.low, d.high),
         first ? "-" : verdict_text(d, row.verdict), cell(row.mean.load, 2),
         cell(row.mean.gradient_norm, 3), cell(row.mean.step_seconds, 3)},
        row.point,
        row.change.pairs < 2 ? "-"
                             : fmt::format("{:.4f} +- {:.4f}", row.change.mean, row.change.error),
        std::isnan(row.gap) ? "-" : fmt::format("{:.0f} %", 100.0 * row.gap));
  }
  return table;
}

Chart chart_of(const std::vector<CompareRow>& rows) {
  Chart chart{.title = "loss less that of " + rows.front().method, .axis = "nats"};
  chart.series = {{"difference", {}}, {"low", {}}, {"high", {}}};
  for (const CompareRow& row : rows) {
    if (row.method == rows.front().method) continue;
    chart.labels.push_back(row.point.empty() ? row.method : row.method + " " + row.point);
    chart.series[0].values.push_back(row.difference.mean);
    chart.series[1].values.push_back(row.difference.low);
    chart.series[2].values.push_back(row.difference.high);
  }
  return chart;
}

}  // namespace moegrad
