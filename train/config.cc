#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <type_traits>

#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "tensor/files.h"
#include "train/own.h"

namespace moegrad {
namespace {

using PlainJson = nlohmann::json;
using OptionKind = OptionSpec::Kind;

constexpr std::string_view kOptions = "options";
constexpr std::string_view kOptionPrefix = "options.";
constexpr std::size_t kMaxBytes = 1 << 20;
// Whole numbers that every reader of JSON keeps exactly.
constexpr double kWhole = 9007199254740991.0;

// `file`: where it was read, with ": "; or nothing.
const TrainField& field_of(const std::string& name, const std::string& file = "") {
  const std::vector<TrainField>& fields = train_fields();
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const TrainField& f) { return f.spec.name == name; });
  if (found != fields.end()) return *found;
  std::vector<std::string> names = {std::string(kOptions)};
  for (const TrainField& f : fields) names.push_back(f.spec.name);
  fail("config", "{}there is no setting '{}'. Did you mean '{}'?", file, name,
       nearest(name, names));
}

// A JSON object of at most two levels, each key once. `order` gets the keys of the top level as the
// text has them, `options` those below. Objects are maps: a million keys take n log n.
PlainJson parse(std::string_view text, std::string_view file, std::vector<std::string>& order,
                std::vector<std::string>& options) {
  if (text.size() > kMaxBytes) {
    fail("config", "{}: {} bytes. A configuration has {} at most.", file, text.size(), kMaxBytes);
  }
  // The JSON library would take it for the end.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    fail("config", "{}: byte {}: a zero byte. Correct the text there.", file, zero);
  }
  std::vector<std::set<std::string>> keys(3);
  const auto check = [&](int depth, PlainJson::parse_event_t event, PlainJson& value) {
    const auto level = static_cast<std::size_t>(depth);
    using Event = PlainJson::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (level >= 2) {
        fail("config", "{}: nested more than 2 levels deep. Only 'options' is an object.", file);
      }
      keys[level + 1].clear();
    } else if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys[level].insert(key).second) {
        fail("config", "{}: '{}' is there twice. Remove one of them.", file, key);
      }
      (level == 1 ? order : options).push_back(key);
    }
    return true;
  };
  try {
    return PlainJson::parse(text, check);
  } catch (const PlainJson::parse_error& error) {
    const std::size_t end = std::min<std::size_t>(error.byte, text.size());
    const std::string_view before = text.substr(0, end);
    const std::size_t newline = before.rfind('\n');
    fail("config", "{}: line {}, column {}: not JSON. Correct the text there.", file,
         1 + std::count(before.begin(), before.end(), '\n'),
         newline == std::string_view::npos ? end : end - newline - 1);
  } catch (const PlainJson::exception&) {
    fail("config", "{}: a number is too large. Give one that fits 64 bits.", file);
  }
}

// JSON holds UTF-8 alone, and the system ends a path at a zero byte.
void require_text(std::string_view name, std::string_view value) {
  if (is_utf8(value) && value.find('\0') == std::string_view::npos) return;
  fail("config", "'{}' is '{}', which is not UTF-8 or has a zero byte. Give another text.", name,
       value);
}

// A value for an error: what it is when it is short, else its kind.
std::string described(const PlainJson& value) {
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  return value.is_string() ? '"' + value.get<std::string>() + '"' : value.dump();
}

std::string text_of(const PlainJson& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// Whether a JSON value is of the kind that a field wants.
void require_kind(const TrainField& field, const PlainJson& value, std::string_view file) {
  std::string_view wanted;
  if (field.spec.kind == OptionKind::text || field.spec.kind == OptionKind::choice) {
    if (!value.is_string()) wanted = "a text in quotes";
  } else if (field.spec.kind == OptionKind::flag) {
    if (!value.is_boolean()) wanted = "true or false";
  } else if (field.spec.kind == OptionKind::integer) {
    if (!value.is_number_integer()) wanted = "a whole number";
  } else if (!value.is_number()) {
    wanted = "a number";
  }
  if (wanted.empty()) return;
  fail("config", "{}: '{}' is {}. Give {}.", file, field.spec.name, described(value), wanted);
}

TrainField result_free(TrainField field) {
  field.result_free = true;
  return field;
}
TrainField of_data(TrainField field) {
  field.of_data = true;
  return field;
}

std::vector<TrainField> make_fields() {
  using C = TrainConfig;
  std::vector<TrainField> fields = {
      of_data({option::text("task", "what to learn"), &C::task}),
      {option::text("router", "which experts a token uses"), &C::router},
      {option::text("estimator", "how the gradient passes the selection"), &C::estimator},
      {option::text("router_gradient", "an estimator for the router's gradient alone"),
       &C::router_gradient},
      {option::text("expert_gradient", "an estimator for the experts' gradient alone"),
       &C::expert_gradient},
      {option::text(
           "norms_of",
           "an estimator: each parameter's gradient gets the norm that it has there, at the "
           "cost of a second pass"),
       &C::norms_of},
      // Sizes of the mixture: 0 and less, and k > E, are errors of the layer.
      {option::integer("experts", "number of experts E").from(-kWhole, 65536), &C::experts},
      {option::integer("active", "experts a token uses, k").from(-kWhole, 65536), &C::active},
      {option::integer("width", "model width D").from(-kWhole, 65536), &C::width},
      {option::integer("hidden", "hidden width H of an expert").from(-kWhole, 1048576), &C::hidden},
      {option::choice(
           "expert", {"network", "cnn"},
           "what an expert is: matrices, or of images a small convolutional network, whose "
           "width is the pixels of an image and whose outputs are hidden"),
       &C::expert},
      {option::choice("activation", {"relu", "gelu", "silu", "swiglu"},
                      "activation of the experts"),
       &C::activation},
      {option::integer("layers", "layers of a language model, the first dense, or of a student")
           .from(1, 1024),
       &C::layers},
      {option::integer("heads", "heads of its attention").from(1, 1024), &C::heads},
      of_data({option::integer("context", "pieces of text that it sees at most").from(1, 65536),
               &C::context}),
      of_data({option::integer("pieces", "its vocabulary: the bytes, and above 256 pairs of pieces")
                   .from(256, BytePairs::kMostPieces),
               &C::pieces}),
      of_data({option::text("domains",
                            "what it reads: all, or some of the language task's domains, a,b"),
               &C::domains}),
      of_data({option::text(
                   "pieces_from",
                   "domains that teach the pieces above 256, where they are not those it reads"),
               &C::pieces_from}),
      {option::number("teacher_kl",
                      "what the teacher's logits count in the loss of a student, beside the labels")
           .from(0, 1e6),
       &C::teacher_kl},
      {option::number("teacher_features", "likewise its embeddings").from(0, 1e6),
       &C::teacher_features},
      {option::number("temperature", "that both logits are divided by for it").from(1e-3, 1e3),
       &C::temperature},
      of_data({option::text("label",
                            "column of the labels, by name or number; else 'label', or the last"),
               &C::label}),
      of_data({option::integer("classes", "classes of your own data; 0: as many as the labels have")
                   .from(0, kMostOwnClasses),
               &C::classes}),
      of_data(
          {option::number("test_share", "part of the rows of your own data that is kept to test on")
               .from(0.0001, 0.9),
           &C::test_share}),
      of_data({option::choice("header", {"auto", "yes", "no"},
                              "whether line 1 of your own data is names"),
               &C::header}),
      {option::number(
           "aux",
           "coefficient of the balance loss E sum f P; -1: that of the router's paper, which is 0 "
           "for most (moegrad list)")
           .from(-1, 1e6),
       &C::aux},
      {option::text("from", "a run or a checkpoint whose parameters and moments it begins with"),
       &C::from},
      {option::integer("epochs",
                       "passes over the training data; with --resume more of them extend a run")
           .from(1, 1e6),
       &C::epochs},
      {option::integer("steps", "steps to make; 0: as many as the epochs have").from(0, 1e12),
       &C::steps},
      {option::integer("batch", "examples in a step").from(1, 1e9), &C::batch},
      {option::integer("parts", "parts that a batch is computed in, their gradients added")
           .from(1, 1e6),
       &C::parts},
      {option::integer("seed", "seed of every random number").from(0, kWhole), &C::seed},
      {option::choice("dtype", {"f32", "f64"}, "floating type"), &C::dtype},
      {option::choice("optimiser", {"adamw", "sgd"}, "rule of the steps"), &C::optimiser},
      {option::number("lr", "learning rate").from(0, 1e6), &C::lr},
      {option::number("router_lr", "factor of the router's learning rate").from(0, 1e6),
       &C::router_lr},
      {option::number("weight_decay", "weight decay of the matrices").from(0, 1e6),
       &C::weight_decay},
      {option::number("beta1", "adamw's decay of the mean gradient").from(0, 0.999999), &C::beta1},
      {option::number("beta2", "adamw's decay of its square").from(0, 0.999999), &C::beta2},
      {option::number("momentum", "momentum of sgd").from(0, 1), &C::momentum},
      {option::flag("nesterov", "sgd looks ahead"), &C::nesterov},
      {option::choice("schedule", {"constant", "cosine", "wsd"}, "learning rate over the steps"),
       &C::schedule},
      {option::integer("warmup", "steps of linear warm-up, at most a tenth of all steps")
           .from(0, 1e9),
       &C::warmup},
      {option::number("lr_floor", "what a falling schedule ends at, as a part of the rate")
           .from(0, 1),
       &C::lr_floor},
      {option::number("clip", "largest norm of the gradient; 0: no clipping").from(0, 1e9),
       &C::clip},
      result_free(
          {option::flag("dropless",
                        "evaluate without dropping choices, whatever the router's capacity"),
           &C::dropless}),
      result_free(of_data(
          {option::text("data", "folder of the data sets; of the task own its file"), &C::data})),
      result_free(
          of_data({option::text("test_data", "another file, to test on, in place of test_share"),
                   &C::test_data})),
      result_free({option::integer("log_every", "steps between lines of metrics").from(1, 1e9),
                   &C::log_every}),
      result_free({option::integer("checkpoint_every", "steps between checkpoints; 0: one an epoch")
                       .from(0, 1e9),
                   &C::checkpoint_every}),
      result_free({option::integer("evaluate_every",
                                   "steps between evaluations; 0: one an epoch, or at the end")
                       .from(0, 1e12),
                   &C::evaluate_every}),
      {option::integer("test_examples",
                       "examples that an evaluation takes, evenly from all there are to test on; "
                       "0: all")
           .from(0, 1e9),
       &C::test_examples},
      result_free({option::integer("keep", "checkpoints to keep").from(1, 1e6), &C::keep})};
  const TrainConfig defaults;
  for (TrainField& f : fields) f.spec.default_value = field_text(defaults, f);
  return fields;
}

}  // namespace

LayerConfig TrainConfig::layer() const {
  LayerConfig layer;
  layer.size = {width, hidden, width, experts, active};
  const RouterEntry& entry = router_entry(router);
  if (!entry.traits.sparse_inference) {  // active is ignored
    layer.size.active = entry.make(Options("router " + router, entry.options))->choices(layer.size);
  }
  layer.router = router;
  layer.estimator = estimator;
  layer.router_gradient = router_gradient;
  layer.expert_gradient = expert_gradient;
  layer.activation = activation_of(activation);
  if (expert == "cnn") {
    layer.expert = ExpertKind::convolutional;
    layer.size.output = hidden;
  }
  layer.options = options;
  if (aux >= 0.0) layer.options["aux"] = fmt::format("{}", aux);
  return layer;
}

Task load_task(const TrainConfig& c, const std::function<void(std::string_view)>& message) {
  return load_task(c.task, {.folder = c.data,
                            .dtype = c.type(),
                            .seed = static_cast<std::uint64_t>(c.seed),
                            .domains = c.domains,
                            .context = c.context,
                            .pieces = c.pieces,
                            .pieces_from = c.pieces_from,
                            .message = message,
                            .file = c.data == TrainConfig().data ? "" : c.data,
                            .test_file = c.test_data,
                            .test_share = c.test_share,
                            .label = c.label,
                            .classes = c.classes,
                            .header = c.header});
}

const std::vector<TrainField>& train_fields() {
  static const std::vector<TrainField> fields = make_fields();
  return fields;
}

std::string flag_of(const TrainField& field) {
  std::string flag = "--" + field.spec.name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

void set_field(TrainConfig& config, const std::string& name, const std::string& value) {
  const TrainField& field = field_of(name);
  field.spec.check("train", value);
  if (field.spec.kind == OptionKind::text) require_text(name, value);
  std::visit(
      [&](auto member) {
        auto& target = config.*member;
        target = parse_option<std::decay_t<decltype(target)>>(value);
      },
      field.member);
}

std::string field_text(const TrainConfig& config, const TrainField& field) {
  return std::visit([&](auto member) { return fmt::format("{}", config.*member); }, field.member);
}

void apply_settings(TrainConfig& config, const Settings& settings) {
  for (const auto& [name, value] : settings) {
    if (!name.starts_with(kOptionPrefix)) {
      set_field(config, name, value);
      continue;
    }
    const std::string option = name.substr(kOptionPrefix.size());
    if (option == "aux") {
      fail("config", "option 'aux' is a setting of its own. Use --aux {}.", value);
    }
    require_text(kOptions, option);
    require_text(name, value);
    config.options[option] = value;
  }
}

Settings read_settings(std::string_view json, std::string_view file) {
  std::vector<std::string> keys;
  std::vector<std::string> options;
  const PlainJson object = parse(json, file, keys, options);
  if (!object.is_object()) {
    fail("config", "{}: the top level is {}. Give an object, {{\"epochs\": 3}}.", file,
         described(object));
  }
  Settings settings;
  for (const std::string& key : keys) {
    const PlainJson& value = object[key];
    if (key != kOptions) {
      require_kind(field_of(key, std::string(file) + ": "), value, file);
      settings.emplace_back(key, text_of(value));
      continue;
    }
    if (!value.is_object()) {
      fail("config", "{}: 'options' is {}. Give an object, {{\"shared\": 1}}.", file,
           described(value));
    }
    for (const std::string& option : options) {
      const auto given = value.find(option);
      if (given == value.end()) continue;  // a key of another setting, which is refused there
      if (given->is_structured() || given->is_null()) {
        fail("config", "{}: option '{}' is {}. Give a text, a number, true or false.", file, option,
             described(*given));
      }
      settings.emplace_back(std::string(kOptionPrefix) + option, text_of(*given));
    }
  }
  TrainConfig trial;
  apply_settings(trial, settings);
  return settings;
}

TrainConfig stored_run(const Settings& settings) {
  TrainConfig config;
  apply_settings(config, settings);
  if (config.aux >= 0.0) return config;
  const RouterEntry& router = router_entry(config.router);
  const bool balanced = router.traits.auxiliary[0] != '\0';
  const bool constant = router.traits.constant_aux[0] != '\0';
  config.aux = balanced || constant ? default_aux(router) : 0.01;
  return config;
}

Settings load_settings(const std::filesystem::path& file) {
  const InputFile input(file);
  if (input.size() > kMaxBytes) {
    fail("config", "{}: {} bytes. A configuration has {} at most.", file.string(), input.size(),
         kMaxBytes);
  }
  return read_settings(read_file(file), file.string());
}

std::string to_json(const TrainConfig& config, bool results_only) {
  auto object = nlohmann::ordered_json::object();
  for (const TrainField& field : train_fields()) {
    if (results_only && field.result_free) continue;
    std::visit([&](auto member) { object[field.spec.name] = config.*member; }, field.member);
    if (field.spec.kind == OptionKind::text)
      require_text(field.spec.name, field_text(config, field));
  }
  if (config.aux < 0.0) object["aux"] = default_aux(router_entry(config.router));
  for (const auto& [name, value] : config.options) {
    require_text(kOptions, name);
    require_text(std::string(kOptionPrefix) + name, value);
  }
  object[std::string(kOptions)] = config.options;
  return object.dump(2);
}

}  // namespace moegrad
