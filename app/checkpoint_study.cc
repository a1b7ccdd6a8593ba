#include "app/checkpoint_study.h"

#include <chrono>

#include "train/progress.h"
#include "train/stored_model.h"

namespace moegrad {

CLI::App& add_checkpoint_study(CLI::App& study, const std::shared_ptr<CheckpointStudy>& a,
                               const std::string& name, const std::string& summary,
                               std::string_view example) {
  CLI::App& command = add_command(study, name, summary, example);
  a->out = "runs/" + name;
  command.add_option("runs", a->runs, "folders of moegrad train, or checkpoints")->required();
  command
      .add_option("--data", a->data,
                  "folder of the data sets; of the task own its file "
                  "[that of the run]")
      ->type_name("PATH");
  add_number<std::int64_t>(command, "--examples", a->examples, 0, 1'000'000'000,
                           "test examples to measure on, evenly from all; 0: all [0]");
  command.add_flag("--quick", a->quick, "64 examples: does it work?");
  command.add_option("--out", a->out, "folder of the report [" + a->out + "]")->type_name("DIR");
  add_json(command, a->json);
  return command;
}

Task task_with_rows(const CheckpointStudy& a, const std::string& run) {
  const StoredModel stored = load_model(checkpoint_of(run));
  TrainConfig config = config_of(run, stored);
  if (!a.data.empty()) config.data = a.data;
  Task task = load_task(config);
  require_shape(stored, task.shape());
  task.test = evenly(task.test, a.examples);
  if (a.quick) task.test = evenly(task.test, kQuickExamples);
  return task;
}

void for_each_run(const CheckpointStudy& a,
                  const std::function<void(const std::string&)>& measure) {
  using Clock = std::chrono::steady_clock;
  Progress progress(stderr, Progress::style_for(stderr));
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < a.runs.size(); ++i) {
    measure(a.runs[i]);
    const std::size_t done = i + 1;
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double left =
        seconds / static_cast<double>(done) * static_cast<double>(a.runs.size() - done);
    progress.message(shown_format("{} of {} runs are measured, {} left", done, a.runs.size(),
                                  duration_text(left)));
  }
}

}  // namespace moegrad
