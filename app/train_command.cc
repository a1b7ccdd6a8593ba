#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "app/commands.h"
#include "app/stop_signal.h"
#include "moe/registry.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/fashion.h"
#include "train/loop.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

constexpr std::string_view kExample =
    "moegrad train vision --router top-k --estimator expert-group --epochs 3 --seed 1\n"
    "  moegrad train synthetic --experts 4 --option shared=1 --out runs/shared\n"
    "  moegrad train own --data flowers.csv --label species --out runs/flowers\n"
    "  moegrad train --resume --out runs/shared\n"
    "  moegrad train --resume --out runs/shared --epochs 6";

struct TrainArguments {
  Settings settings;
  std::string config_file;
  std::string out;
  int threads = 0;
  Device device = Device::cpu;
  bool capture = false;
  Maths maths = Maths::exact;
  bool resume = false;
  bool force = false;
  int parent = 0;
  JsonOutput json;
};

template <class Entries>
std::string names(const Entries& entries) {
  std::vector<std::string> list;
  for (const auto& entry : entries) list.emplace_back(entry.name);
  return fmt::format("{}", fmt::join(list, ", "));
}

void print_result(const TrainResult& r, const std::string& out) {
  put(stdout, "{}; {} steps in {:.1f} s, {} parameters\n", text_of(r.test), r.steps,
      r.train_seconds, r.parameters);
  if (r.maths != Maths::exact) put(stdout, "products with {}\n", name_of(r.maths));
  put(stdout, "expert load   {:.3f}\n", fmt::join(r.test.expert_load, " "));
  put(stdout, "written to    {}\n", shown(out));
}

int run(const TrainArguments& arguments) {
  Settings settings;
  if (!arguments.config_file.empty()) settings = load_settings(arguments.config_file);
  settings.insert(settings.end(), arguments.settings.begin(), arguments.settings.end());
  if (arguments.resume && arguments.force) {
    fail("train", "--resume goes on with a run and --force starts over. Give one of them.");
  }
  TrainConfig config;
  apply_settings(config, settings);
  std::string out = arguments.out;
  if (out.empty()) {
    if (config.task.empty()) {
      fail("train", "no task is given. Give one of: {}.", names(tasks()));
    }
    out = fmt::format("runs/{}-{}-{}", config.task, config.router, config.estimator);
  }
  if (arguments.resume) config = RunFolder(out).resumed(settings);
  if (config.task.empty()) fail("train", "no task is given. Give one of: {}.", names(tasks()));

  const RunFolder folder(out);
  require_distinct("train",
                   {arguments.config_file, folder.config(), folder.metrics(), folder.result(),
                    folder.checkpoints(), vision_folder(config.data),
                    config.task == "own" ? config.data : "", config.test_data},
                   {arguments.json.file});
  // The folder of the run may still have to be made: then it is asked again when it is there.
  if (!lies_in(arguments.json.file, out)) arguments.json.require();
  stop_on_signals();
  if (arguments.parent != 0) stop_with(arguments.parent);
  Progress progress(stderr, Progress::style_for(stderr));
  const TrainResult result = train(config, {.out = out,
                                            .resume = arguments.resume,
                                            .force = arguments.force,
                                            .threads = arguments.threads,
                                            .device = arguments.device,
                                            .capture = arguments.capture,
                                            .maths = arguments.maths,
                                            .stop = &stop_signal,
                                            .progress = &progress,
                                            .ready = [&] { arguments.json.require(); }});
  if (result.signal != 0) {
    progress.message(shown_format(
        "stopped after step {}, saved in {}\ngo on with: moegrad train --resume --out {}",
        result.steps, result.checkpoint.string(), out));
  }
  if (arguments.json.wanted) {
    arguments.json.write(to_json(result, config));
  } else if (result.signal == 0) {
    print_result(result, out);
  }
  return result.signal == 0 ? kOk : 128 + result.signal;
}

}  // namespace

void add_train(CLI::App& app, Global& global) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App& command =
      add_command(app, "train", "Train a model with mixture-of-experts layers.", kExample);
  for (const TrainField& field : train_fields()) {
    const std::string name = field.spec.name;
    std::string help = field.spec.help;
    if (name == "task") help += ": " + names(tasks());
    if (name == "router") help += ": " + names(routers());
    if (name == "estimator") help += ": " + names(estimators());
    if (!field.spec.choices.empty()) {
      help += fmt::format(": {}", fmt::join(field.spec.choices, ", "));
    }
    const bool flag = field.spec.kind == OptionSpec::Kind::flag;
    CLI::Option* option = command.add_option_function<std::string>(
        name == "task" ? name : flag_of(field),
        [arguments, name, flag](const std::string& value) {
          arguments->settings.emplace_back(name, flag && value.empty() ? "true" : value);
        },
        help);
    if (flag) option->expected(0, 1);
    option->type_name("")->default_str(field.spec.default_value);
  }
  command
      .add_option_function<std::vector<std::string>>(
          "--option",
          [arguments](const std::vector<std::string>& pairs) {
            for (const auto& [key, value] : option_map("train", pairs)) {
              arguments->settings.emplace_back("options." + key, value);
            }
          },
          "an option of the router, the estimator or the layer; may be repeated")
      ->type_name("key=value")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      .add_option("--config", arguments->config_file,
                  "JSON with any of these settings; flags override it")
      ->type_name("FILE");
  command.add_option("--out", arguments->out, "folder of the run [runs/TASK-ROUTER-ESTIMATOR]")
      ->type_name("DIR");
  add_number(command, "--threads", arguments->threads, 0, 1024,
             "threads; 0: all. Results do not depend on it")
      ->type_name("");
  command.add_option("--parent", arguments->parent, "the study that this is a run of")->group("");
  add_device(command, arguments->device);
  command.add_flag("--capture", arguments->capture,
                   "launch each step of training as one CUDA graph, to the same bits");
  command
      .add_option_function<std::string>(
          "--maths", [arguments](const std::string& name) { arguments->maths = maths_named(name); },
          "how a cuda device multiplies f32: exact, or rounded to tf32 or bf16, for its tensor "
          "cores; may differ when a run is resumed, then its bits do [exact]")
      ->type_name("NAME");
  command.add_flag("--resume", arguments->resume,
                   "go on with the run in DIR; with more --epochs than it has, also when finished: "
                   "from the next step on with the learning rate of a run of so many epochs");
  command.add_flag("--force", arguments->force, "start over in a DIR that holds a run");
  add_json(command, arguments->json);
  command.callback([arguments, &global] { global.exit_code = run(*arguments); });
}

}  // namespace moegrad
