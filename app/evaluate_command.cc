#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "train/evaluation.h"
#include "train/language.h"
#include "train/own.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

constexpr std::string_view kEvaluateExample =
    "moegrad evaluate runs/flowers --data more.csv\n"
    "  moegrad evaluate runs/vision-top-k-sparse\n"
    "  moegrad evaluate runs/language-xs --domains prose";

struct EvaluateArguments {
  std::string run;
  std::string data;
  std::string header;
  std::string domains;
  Device device = Device::cpu;
  JsonOutput json;
};

// The test data that the run was given; those of `data`, where that is given.
Dataset test_data(const EvaluateArguments& a, const StoredModel& stored, TrainConfig config) {
  if (!a.domains.empty()) {
    if (config.task != "language") {
      fail("evaluate", "--domains is of language models, and '{}' was trained on {}. Leave it out.",
           shown(a.run), config.task);
    }
    return test_windows(a.data.empty() ? config.data : a.data, a.domains, config.context,
                        BytePairs(stored.task.pairs));
  }
  if (config.task == "own" && !a.data.empty()) {
    return read_own(
        a.data, stored.task,
        {.dtype = config.type(), .header = a.header.empty() ? config.header : a.header});
  }
  if (!a.data.empty()) config.data = a.data;
  Task task = load_task(config);
  require_shape(stored, task.shape());
  return std::move(task.test);
}

int run(const EvaluateArguments& a) {
  require_distinct("evaluate", {a.run, a.data}, {a.json.file});
  a.json.require();
  const StoredModel stored = load_model(checkpoint_of(a.run), a.device);
  const TrainConfig config = config_of(a.run, stored);
  const Dataset data = test_data(a, stored, config);
  const Evaluation e = evaluate(*stored.model, stored.parameters, data, config.dropless);
  if (!a.json.wanted) {
    put(stdout, "{}; {} rows\n", text_of(e), data.x.size(0));
    put(stdout, "expert load   {:.3f}\n", fmt::join(e.expert_load, " "));
    return kOk;
  }
  nlohmann::ordered_json object = {
      {"run", a.run}, {"step", stored.step}, {"task", stored.config.task}};
  object["rows"] = data.x.size(0);
  for (const auto& [name, value] : e.measures) object["test_" + name] = value;
  object["test_loss"] = e.loss;
  object["expert_load"] = e.expert_load;
  object["dropped"] = e.dropped;
  a.json.write(json_text(object));
  return kOk;
}

}  // namespace

void add_evaluate(CLI::App& app, Global& global) {
  const auto a = std::make_shared<EvaluateArguments>();
  CLI::App& command = add_command(
      app, "evaluate", "Measure a trained model on the test data of its run, or on others.",
      kEvaluateExample);
  command.add_option("run", a->run, "the folder of a run, or one of its checkpoints")->required();
  command
      .add_option("--data", a->data,
                  "of the task own another file, with labels; else the folder of the data sets "
                  "[that of the run]")
      ->type_name("PATH");
  command
      .add_option("--domains", a->domains,
                  "of a language model: the test text of these alone, a,b [those of the run]")
      ->type_name("NAMES");
  add_header(command, a->header);
  add_device(command, a->device);
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run(*a); });
}

}  // namespace moegrad
