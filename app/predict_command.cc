#include <algorithm>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "tensor/files.h"
#include "train/evaluation.h"
#include "train/own.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

constexpr std::string_view kPredictExample =
    "moegrad predict runs/flowers --data more.csv\n"
    "  moegrad predict runs/flowers --data more.csv --out predicted.csv";

struct PredictArguments {
  std::string run;
  std::string data;
  std::string header;
  std::string out;
  Device device = Device::cpu;
  JsonOutput json;
};

// RFC 4180.
std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"") == text.npos && !text.starts_with(' ') && !text.ends_with(' ')) {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::int64_t likeliest(const double* chances, std::int64_t classes) {
  return std::max_element(chances, chances + classes) - chances;
}

std::string csv_of(const std::vector<std::string>& names, const Tensor& chances) {
  const std::int64_t classes = chances.size(1);
  std::string text = "predicted";
  for (const std::string& name : names) text += "," + csv_cell(name);
  text += "\n";
  for (std::int64_t row = 0; row < chances.size(0); ++row) {
    const double* const at = chances.data<double>() + row * classes;
    text += csv_cell(names[static_cast<std::size_t>(likeliest(at, classes))]);
    for (std::int64_t c = 0; c < classes; ++c) text += fmt::format(",{:.6f}", at[c]);
    text += "\n";
  }
  return text;
}

std::string json_of(const PredictArguments& a, const std::vector<std::string>& names,
                    const Tensor& chances) {
  const std::int64_t classes = chances.size(1);
  auto rows = nlohmann::ordered_json::array();
  for (std::int64_t row = 0; row < chances.size(0); ++row) {
    const double* const at = chances.data<double>() + row * classes;
    rows.push_back({{"predicted", names[static_cast<std::size_t>(likeliest(at, classes))]},
                    {"probabilities", std::vector<double>(at, at + classes)}});
  }
  return json_text(
      nlohmann::ordered_json{{"run", a.run}, {"data", a.data}, {"classes", names}, {"rows", rows}});
}

int run(const PredictArguments& a) {
  if (!a.out.empty() && a.json.wanted) {
    fail("predict", "--out FILE is for CSV, and --json [FILE] for JSON. Give one of them.");
  }
  require_distinct("predict", {a.run, a.data}, {a.out, a.json.file});
  a.json.require();
  if (!a.out.empty()) require_writable(a.out);
  const StoredModel stored = load_model(checkpoint_of(a.run), a.device);
  const TrainConfig config = config_of(a.run, stored);
  const Dataset data = read_own(a.data, stored.task,
                                {.dtype = config.type(),
                                 .header = a.header.empty() ? config.header : a.header,
                                 .labels = false});
  const Tensor chances = probabilities(*stored.model, stored.parameters, data.x, config.dropless);
  const std::vector<std::string>& names = stored.task.targets.front().names;
  if (a.json.wanted) {
    a.json.write(json_of(a, names, chances));
  } else if (a.out.empty()) {
    put(stdout, "{}", csv_of(names, chances));
  } else {
    write_file_atomic(a.out, csv_of(names, chances));
  }
  return kOk;
}

}  // namespace

void add_predict(CLI::App& app, Global& global) {
  const auto a = std::make_shared<PredictArguments>();
  CLI::App& command =
      add_command(app, "predict", "Tell the classes of a file's rows, by a run of the task own.",
                  kPredictExample);
  command.add_option("run", a->run, "the folder of a run, or one of its checkpoints")->required();
  command.add_option("--data", a->data, "rows as those of the run, with or without the labels")
      ->type_name("FILE")
      ->required();
  add_header(command, a->header);
  command.add_option("--out", a->out, "a file for the CSV [the terminal]")->type_name("FILE");
  add_device(command, a->device);
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run(*a); });
}

}  // namespace moegrad
