#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moe/layer.h"
#include "train/dataset.h"

namespace moegrad {

// Everything that a run is made of. The same values give the same parameters, bit for bit.
struct TrainConfig {
  std::string task;
  std::string router = "top-k";
  std::string estimator = "sparse";
  std::string router_gradient = {};  // an estimator whose router part replaces the estimator's
  std::string expert_gradient = {};  // likewise its expert part
  std::string norms_of = {};         // an estimator whose norms the gradients get (StepOptions)
  std::int64_t experts = 8;
  std::int64_t active = 2;
  std::int64_t width = 64;
  std::int64_t hidden = 128;
  std::string expert = "network";
  std::string activation = "relu";
  std::int64_t layers = 3;  // of a language model: the first is dense, each other has a mixture
  std::int64_t heads = 4;
  std::int64_t context = 128;
  std::int64_t pieces = 256;
  std::string domains = "all";   // of the language task
  std::string pieces_from = {};  // the domains whose texts teach its pieces; empty: `domains`
  double teacher_kl = 1.0;       // of the task distil, as in train/student.h
  double teacher_features = 1.0;
  double temperature = 2.0;
  std::string label = {};  // of the task own: of this on, what TaskOptions has under the same name
  std::int64_t classes = 0;
  double test_share = 0.2;
  std::string header = "auto";
  std::map<std::string, std::string> options = {};  // of router, estimator and layer
  double aux = -1.0;  // below 0: default_aux of the router (moe/layer.h)

  std::string from = {};  // a run, or a checkpoint, whose parameters it begins with
  std::int64_t epochs = 3;
  std::int64_t steps = 0;  // 0: as many as the epochs have
  std::int64_t batch = 128;
  std::int64_t parts = 1;
  std::int64_t seed = 1;
  std::string dtype = "f32";

  std::string optimiser = "adamw";
  double lr = 2e-3;
  double router_lr = 1.0;
  double weight_decay = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double momentum = 0.9;
  bool nesterov = false;
  std::string schedule = "cosine";
  std::int64_t warmup = 100;
  double lr_floor = 0.0;
  double clip = 1.0;

  // That an evaluation takes, evenly from all; 0: all. Changes no parameter, and yet holds for the whole
  // run: all its losses are of the same examples.
  std::int64_t test_examples = 0;

  // These change no parameter.
  bool dropless = false;      // evaluations drop no choice, whatever the capacity of the router
  std::string data = "data";  // a folder; of the task own a file
  std::string test_data = {};
  std::int64_t log_every = 20;
  std::int64_t checkpoint_every = 0;
  std::int64_t evaluate_every = 0;
  std::int64_t keep = 2;

  DType type() const { return dtype == "f64" ? DType::f64 : DType::f32; }
  // The mixture layer. Where a router takes all experts, `active` does not matter.
  LayerConfig layer() const;
};

// The data that it asks for.
Task load_task(
    const TrainConfig& config,
    const std::function<void(std::string_view)>& message = [](std::string_view) {});

// One value of a TrainConfig: what the JSON key, the flag, the checks and --help come from.
struct TrainField {
  using Member = std::variant<std::string TrainConfig::*, std::int64_t TrainConfig::*,
                              double TrainConfig::*, bool TrainConfig::*>;
  OptionSpec spec;  // name as in JSON: "weight_decay"; the flag is "--weight-decay"
  Member member;
  bool result_free = false;  // changes no parameter: may differ when a run is resumed
  bool of_data = false;      // chooses what is to train and to test on, beside dtype and seed
};
const std::vector<TrainField>& train_fields();
std::string flag_of(const TrainField& field);

// Sets a value from text; errors as for any option: unknown (the nearest is named), of the wrong
// kind, out of range; a text that is not UTF-8 or has a zero byte.
void set_field(TrainConfig& config, const std::string& name, const std::string& value);
// The value as text, in a form that set_field reads back exactly.
std::string field_text(const TrainConfig& config, const TrainField& field);

// What was asked for explicitly, in order: {field, text}; an option of router, estimator or layer
// as {"options.NAME", text}.
using Settings = std::vector<std::pair<std::string, std::string>>;
void apply_settings(TrainConfig& config, const Settings& settings);

// The settings of a JSON object. It is not trusted: errors name the file and the place.
Settings read_settings(std::string_view json, std::string_view file);
Settings load_settings(const std::filesystem::path& file);
// All values, as indented JSON, with the aux that -1 stands for. With results_only, without those
// that change no result.
std::string to_json(const TrainConfig& config, bool results_only = false);
// The configuration of a stored run. Where an earlier version stored an aux of -1, it meant 0.01
// for a router without a balance loss of its own.
TrainConfig stored_run(const Settings& settings);

}  // namespace moegrad
