#include "lab/logged_run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/config.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Keys = std::set<std::string>;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// What this version writes; of an evaluation and a result also test_NAME.
const Keys& keys_of_a_step() {
  static const Keys keys = {"kind",
                            "step",
                            "epoch",
                            "loss",
                            "auxiliary",
                            "losses",
                            "expert_load",
                            "layer_loads",
                            "dropped",
                            "learning_rate",
                            "seconds",
                            "gradient_norm",
                            "examples_per_second"};
  return keys;
}
const Keys& keys_of_an_evaluation() {
  static const Keys keys = {"kind",        "step",    "epoch",  "expert_load",
                            "layer_loads", "dropped", "seconds"};
  return keys;
}
const Keys& keys_of_a_result() {
  static const Keys keys = {"task",        "router",      "estimator", "auxiliary_losses",
                            "interrupted", "steps",       "seed",      "parameters",
                            "maths",       "checkpoint",  "dropped",   "train_seconds",
                            "expert_load", "layer_loads", "data"};
  return keys;
}

Json parsed(const std::string& text) {
  // The JSON library would take a zero byte for the end.
  if (text.find('\0') != std::string::npos) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, false);
}

const Json& member(const Json& object, const std::string& key) {
  static const Json none = nullptr;
  const auto found = object.find(key);
  return found == object.end() ? none : *found;
}

double number_of(const Json& value) {
  const double x = value.is_number() ? value.get<double>() : kNone;
  return std::isfinite(x) ? x : kNone;
}

void note_unknown(LoggedRun& run, std::string_view file, const Keys& keys) {
  if (keys.empty()) return;
  run.notes.push_back(shown_format("{} has '{}', which this version does not know", file,
                                   fmt::format("{}", fmt::join(keys, "', '"))));
}

bool is_default(const TrainConfig& config, const TrainField& field) {
  if (field.spec.name != "aux") return field_text(config, field) == field.spec.default_value;
  const bool known = std::ranges::any_of(
      routers(), [&](const RouterEntry& router) { return router.name == config.router; });
  return known && config.aux == default_aux(router_entry(config.router));
}

void describe(LoggedRun& run, const TrainConfig& config, const fs::path& folder) {
  run.command = "moegrad train " + shell_word(config.task);
  for (const TrainField& field : train_fields()) {
    const std::string text = field_text(config, field);
    run.config[field.spec.name] = text;
    if (field.spec.name == "task" || is_default(config, field)) continue;
    run.set.push_back(field.spec.name);
    run.command += " " + flag_of(field) + " " + shell_word(text);
  }
  for (const auto& [name, value] : config.options) {
    run.config["options." + name] = value;
    run.set.push_back("options." + name);
    run.command += " --option " + shell_word(name + "=" + value);
  }
  run.command += " --out " + shell_word(folder.string());
}

// A setting that this version does not have is kept as text; one that is not there is a default.
void read_config(LoggedRun& run, const RunFolder& folder) {
  const std::string file = folder.config().string();
  const std::string text = read_file(folder.config());
  Json object = parsed(text);
  if (!object.is_object()) {
    (void)read_settings(text, file);  // says what it is
    fail("report", "{}: not a configuration. Is '{}' a run?", file, folder.path().string());
  }
  std::vector<std::string> missing;
  Keys known = {"options"};
  for (const TrainField& field : train_fields()) {
    known.insert(field.spec.name);
    if (!object.contains(field.spec.name)) missing.push_back(field.spec.name);
  }
  Keys unknown;
  for (const auto& [key, value] : object.items()) {
    if (known.contains(key)) continue;
    unknown.insert(key);
    run.config[key] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  for (const std::string& key : unknown) object.erase(key);
  note_unknown(run, "config.json", unknown);
  if (!missing.empty()) {
    run.notes.push_back(
        fmt::format("config.json lacks {}: shown as by default", fmt::join(missing, ", ")));
  }
  describe(run, stored_run(read_settings(object.dump(), file)), folder.path());
}

void read_result(LoggedRun& run, const RunFolder& folder) {
  if (!path_exists(folder.result())) {
    run.state = is_in_use(folder.path()) ? LoggedRun::State::going_on : LoggedRun::State::stopped;
    return;
  }
  run.state = LoggedRun::State::finished;
  const Json object = parsed(read_file(folder.result()));
  if (!object.is_object()) {
    run.notes.emplace_back("result.json is not the result of a run");
    return;
  }
  Keys unknown;
  for (const auto& [key, value] : object.items()) {
    const bool measure = key.starts_with("test_");
    if (value.is_number() || measure) run.result.emplace_back(key, number_of(value));
    if (key == "maths" && value.is_string()) run.maths = value.get<std::string>();
    if (key == "data" && value.is_string()) run.data = value.get<std::string>();
    if (!measure && !keys_of_a_result().contains(key)) unknown.insert(key);
  }
  note_unknown(run, "result.json", unknown);
}

std::vector<std::vector<double>> loads_of(const Json& line) {
  const Json& layers = member(line, "layer_loads");
  const Json& mean = member(line, "expert_load");
  std::vector<std::vector<double>> loads;
  try {
    if (layers.is_array()) loads = layers.get<std::vector<std::vector<double>>>();
    if (!layers.is_array() && mean.is_array()) loads = {mean.get<std::vector<double>>()};
  } catch (const Json::exception&) {
    return {};  // null, for a number that is not finite
  }
  const bool empty = std::ranges::any_of(loads, [](const auto& layer) { return layer.empty(); });
  return empty ? std::vector<std::vector<double>>() : loads;
}

double max_over_mean(const std::vector<std::vector<double>>& loads) {
  double sum = 0.0;
  for (const std::vector<double>& layer : loads) {
    sum += std::ranges::max(layer) * static_cast<double>(layer.size());
  }
  return loads.empty() ? kNone : sum / static_cast<double>(loads.size());
}

LoggedLines lines_of(std::vector<Json> objects) {
  std::ranges::stable_sort(objects, {},
                           [](const Json& line) { return line["step"].get<std::int64_t>(); });
  LoggedLines lines;
  const auto put = [&](const std::string& name, double value) {
    std::vector<double>& column = lines.columns[name];
    column.resize(lines.size(), kNone);
    column.back() = value;
  };
  for (const Json& object : objects) {
    lines.step.push_back(object["step"].get<std::int64_t>());
    lines.loads.push_back(loads_of(object));
    for (const auto& [key, value] : object.items()) {
      if (key == "losses" && value.is_object()) {
        for (const auto& [name, loss] : value.items()) put("losses." + name, number_of(loss));
      } else if (key != "step" && !value.is_structured() && !value.is_string()) {
        put(key, number_of(value));
      }
    }
    put("load_max_mean", max_over_mean(lines.loads.back()));
  }
  for (auto& [name, column] : lines.columns) column.resize(lines.size(), kNone);
  return lines;
}

// Whole lines alone: of a run that is going on, the last one may be half written.
void read_metrics(LoggedRun& run, const RunFolder& folder) {
  const std::string all = path_exists(folder.metrics()) ? read_file(folder.metrics()) : "";
  std::vector<Json> steps;
  std::vector<Json> evaluations;
  std::size_t unreadable = 0;
  std::map<std::string, std::size_t> other_kinds;
  Keys unknown;
  std::size_t begin = 0;
  for (std::size_t end = all.find('\n'); end != std::string::npos; end = all.find('\n', begin)) {
    Json line = parsed(all.substr(begin, end - begin));
    begin = end + 1;
    if (!line.is_object() || !member(line, "step").is_number_integer() ||
        !member(line, "kind").is_string()) {
      ++unreadable;
      continue;
    }
    const auto kind = line["kind"].get<std::string>();
    const bool step = kind == "step";
    if (!step && kind != "evaluation") {
      ++other_kinds[kind];
      continue;
    }
    const Keys& known = step ? keys_of_a_step() : keys_of_an_evaluation();
    for (const auto& [key, value] : line.items()) {
      if (!known.contains(key) && (step || !key.starts_with("test_"))) unknown.insert(key);
    }
    (step ? steps : evaluations).push_back(std::move(line));
  }
  run.steps = lines_of(std::move(steps));
  run.evaluations = lines_of(std::move(evaluations));
  note_unknown(run, "metrics.jsonl", unknown);
  for (const auto& [kind, count] : other_kinds) {
    run.notes.push_back(shown_format(
        "metrics.jsonl has {} of kind '{}', which this version does not know", count, kind));
  }
  if (unreadable > 0) {
    run.notes.push_back(fmt::format("metrics.jsonl has {} unreadable lines", unreadable));
  }
  if (run.steps.size() + run.evaluations.size() == 0) {
    run.notes.emplace_back("metrics.jsonl has no step and no evaluation");
  }
}

}  // namespace

std::int64_t LoggedRun::last_step() const {
  std::int64_t last = 0;
  for (const LoggedLines* lines : {&steps, &evaluations}) {
    if (lines->size() > 0) last = std::max(last, lines->step.back());
  }
  return last;
}

std::string shell_word(std::string_view text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:=+%@";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string_view::npos) {
    return std::string(text);
  }
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string_view name_of(LoggedRun::State state) {
  if (state == LoggedRun::State::finished) return "finished";
  return state == LoggedRun::State::going_on ? "going on" : "stopped";
}

LoggedRun read_run(const fs::path& folder) {
  const RunFolder files(folder);
  LoggedRun run{.name = shown(folder.string())};
  read_config(run, files);
  read_result(run, files);
  read_metrics(run, files);
  return run;
}

}  // namespace moegrad
