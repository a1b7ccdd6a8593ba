#include <algorithm>
#include <limits>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/layer_file.h"
#include "moe/layer.h"
#include "moe/padding.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"

namespace moegrad {
namespace {

constexpr std::int64_t kMostNumber = std::numeric_limits<std::int32_t>::max();

struct LayerArguments {
  std::string in, out;
  std::string router = "top-k";
  std::string estimator = "sparse";
  std::string router_gradient, expert_gradient;
  std::string activation = "relu";
  std::string mask;
  std::int64_t active = 0;
  std::int64_t sequence = 1;
  bool train = false;
  bool evaluate = false;
  bool dropless = false;
  bool causal = false;
  bool force = false;
  std::uint64_t seed = 1;
  Device device = Device::cpu;
  std::vector<std::string> options;
  JsonOutput json;
};

// True where a router took the selection that it was given, or dropped a part of it.
bool taken_or_dropped(const Tensor& given, const Tensor& used) {
  if (!(given.shape() == used.shape())) return false;
  for (std::int64_t i = 0; i < given.numel(); ++i) {
    if (used.at(i) != given.at(i) && used.at(i) != -1.0) return false;
  }
  return true;
}

std::int64_t padding_of(const Tensor& mask) {
  const std::span<const std::int32_t> m = mask.values<std::int32_t>();
  return std::count(m.begin(), m.end(), 0);
}

// n copies of each row of x [N, D], one behind the other.
Var copies_of(Var x, std::int64_t n) {
  if (n == 1) return x;
  Tensor rows = Tensor::empty({n * x.size(0)}, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < rows.numel(); ++i) {
    rows.write<std::int32_t>()[i] = static_cast<std::int32_t>(i / n);
  }
  return gather_rows(x, rows.to(x.value().device()));
}

// Each entry n times, one behind the other.
Tensor copies_of(const Tensor& mask, std::int64_t n) {
  if (!mask.defined() || n == 1) return mask;
  Tensor out = Tensor::empty({n * mask.numel()}, DType::i32, Device::cpu);
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    out.write<std::int32_t>()[i] = mask.data<std::int32_t>()[i / n];
  }
  return out;
}

int run(const LayerArguments& a) {
  if (a.train && a.evaluate) fail("layer", "--train and --eval are both given. Give one.");
  if (a.dropless && !a.evaluate) fail("layer", "--dropless is for inference. Add --eval.");
  require_distinct("layer", {a.in}, {a.out, a.json.file});
  const TensorFile in = read_layer_file(a.in, a.mask);
  const Tensor& x = in.at("x");
  Sizes sizes(a.in);
  for (const char* name : {"x", "experts.w1", "experts.w2", "dy"}) {
    sizes.require(name, in.at(name));
  }
  LayerConfig config;
  config.router = a.router;
  config.estimator = a.estimator;
  config.router_gradient = a.router_gradient;
  config.expert_gradient = a.expert_gradient;
  config.causal = a.causal;
  config.force = a.force;
  config.activation = activation_of(a.activation);
  config.options = option_map("layer", a.options);
  const std::int64_t k = a.router == "softmax" && a.active == 0 ? sizes["E"] : a.active;
  config.size = {sizes["D"], sizes["H"], sizes["Dout"], sizes["E"], k};
  sizes.set("k", k);
  const Layer layer(config);
  Parameters declared;
  Rng unused;
  layer.declare("", declared, unused);
  if (!a.evaluate) layer.say_where_silent();
  check_tensors(a.in, in, declared, sizes);

  require_writable(a.out);
  a.json.require();

  const Tensor mask = in.find("mask") != nullptr ? in.at("mask") : Tensor();
  if (mask.defined()) require_mask(mask, sizes["N"]);
  const std::int64_t padding = mask.defined() ? padding_of(mask) : 0;
  // Decisions are those of the tokens.
  Decisions decisions;
  const Tensor selected =
      in.find("selected") != nullptr ? tokens_alone(in.at("selected"), mask) : Tensor();
  const auto replacement = config.options.find("replacement");
  if (selected.defined()) {
    const bool repeats = replacement != config.options.end() && replacement->second == "true";
    check_selected(a.in, selected, sizes["E"], repeats);
    decisions.give("selected", selected);
  }
  if (const Tensor* unadjusted = in.find("unadjusted")) {
    if (a.router != "moesart" || a.evaluate) {
      fail("layer", "{}: 'unadjusted' is a decision of moesart in training only. Leave it out.",
           a.in);
    }
    decisions.give("unadjusted", places(a.in, tokens_alone(*unadjusted, mask), selected));
  }

  Tape tape({.check_finite = true, .rng = Rng{a.seed, 0, 0}, .decisions = &decisions});
  const auto here = [](const Tensor& t) { return t.to(Device::cpu); };
  const auto there = [&](const Tensor& t) { return t.to(a.device); };
  const Var tokens = tape.variable(there(x));
  Weights weights;
  for (const Parameter& p : declared) {
    const Tensor* given = in.find(p.name);
    if (p.trained) {
      if (given != nullptr) weights.set(p.name, tape.variable(there(*given)));
    } else {
      const Tensor value = given != nullptr ? *given : p.value.to(x.dtype());
      weights.set(p.name, tape.constant(there(value)));
    }
  }
  // Estimators that need the losses of several draws run copies of each token.
  const std::int64_t copies = a.evaluate ? 1 : layer.estimator().samples();
  const Var dy = copies_of(tape.constant(there(in.at("dy"))), copies);
  LayerInput input{copies_of(tokens, copies), weights, !a.evaluate};
  input.sequence = a.sequence * copies;
  input.dropless = a.dropless;
  input.mask = there(copies_of(mask, copies));
  if (const Tensor* ids = in.find("ids")) input.ids = there(*ids);
  if (const Tensor* attention = in.find("attention")) input.attention = there(*attention);
  const LayerOutput out = layer.forward(input);
  if (selected.defined() && !taken_or_dropped(selected, out.routing.selected.to(Device::cpu))) {
    fail("layer", "{}: router {} selects experts by itself. Leave 'selected' out.", a.in, a.router);
  }
  const Var losses = sum(out.y * dy, 1);  // of each row
  Var loss = sum(losses) / static_cast<double>(copies);
  // What is differentiated: the loss, or the estimator's objective, which is of a mean over tokens.
  Var objective = loss;
  if (!a.evaluate && layer.estimator().needs_losses()) {
    objective = static_cast<double>(sizes["N"] - padding) * layer.objective(losses, out, input);
  }
  TensorFile result;
  if (out.auxiliary.defined()) {
    loss = loss + out.auxiliary;
    objective = objective + out.auxiliary;
    result.tensors["auxiliary"] = here(out.auxiliary.value());
  }
  // Everything is computed before the first result is written, and values are read before the
  // backward pass, which releases them.
  result.tensors["y"] = here(out.y.value());
  // Where the experts work on other rows than the tokens, the routing is of those.
  const Tensor rows = out.routing.rows.defined() ? Tensor() : here(out.mask);
  result.tensors["scores"] = with_padding(here(out.routing.scores.value()), rows);
  result.tensors["weights"] = with_padding(here(out.routing.weights.value()), rows);
  result.tensors["selected"] = with_padding(here(out.routing.selected), rows, -1.0);
  for (const auto& [name, value] : out.updates) result.tensors["new." + name] = here(value);
  const double loss_value = loss.value().item();
  const std::vector<double> load = out.expert_load().to_vector();
  const Gradients gradients = tape.backward(objective);
  result.tensors["grad.x"] = here(gradients[tokens]);
  for (const auto& [name, v] : weights) {
    const Parameter* p = declared.find(name);
    if (p != nullptr && p->trained) result.tensors["grad." + name] = here(gradients[v]);
  }
  nlohmann::json object = {{"router", a.router},
                           {"estimator", a.estimator},
                           {"tokens", sizes["N"] - padding},
                           {"dtype", name_of(x.dtype())},
                           {"training", !a.evaluate},
                           {"loss", loss_value},
                           {"expert_load", load},
                           {"out", a.out}};
  if (mask.defined()) object["padding"] = padding;
  const std::string text = json_text(object);
  write_safetensors(a.out, result);

  if (a.json.wanted) {
    a.json.write(text);
  } else {
    const std::string rest = mask.defined() ? fmt::format(" and {} of padding", padding) : "";
    put(stdout, "{} / {}, {} tokens{}, {}: loss {:.9g}, load {}\nwritten to {}\n", a.router,
        a.estimator, sizes["N"] - padding, rest, a.evaluate ? "inference" : "training", loss_value,
        fmt::join(load, " "), shown(a.out));
  }
  return kOk;
}

}  // namespace

void add_layer(CLI::App& app, Global& global) {
  const auto a = std::make_shared<LayerArguments>();
  CLI::App& command = add_command(
      app, "layer", "Run one mixture layer, forward and backward, on given numbers.",
      "moegrad layer --in in.safetensors --out out.safetensors --router top-k --estimator "
      "expert-group --active 2 --activation gelu");
  command
      .add_option("--in", a->in,
                  "safetensors (F32 or F64; BF16 and F16 are read as F32): x, dy, router.*, "
                  "experts.*, ids, mask, ...")
      ->type_name("FILE")
      ->required();
  command
      .add_option(
          "--out", a->out,
          "gets y, scores, selected, weights, grad.* and new.* (state); with samples=n rows "
          "n t to n t + n - 1 are the copies of token t")
      ->type_name("FILE")
      ->required();
  command.add_option("--router", a->router, "[top-k]")->type_name("NAME");
  command.add_option("--estimator", a->estimator, "[sparse]")->type_name("NAME");
  command
      .add_option("--router-gradient", a->router_gradient,
                  "an estimator for the router's gradient alone")
      ->type_name("NAME");
  command
      .add_option("--expert-gradient", a->expert_gradient,
                  "an estimator for the experts' gradient alone")
      ->type_name("NAME");
  add_number<std::int64_t>(command, "--sequence", a->sequence, 1, kMostNumber,
                           "consecutive tokens that form a sequence [1]")
      ->type_name("L");
  command
      .add_option("--mask", a->mask,
                  "the tensor (I32 or I64 [N]) that is 1 for a token and 0 for padding, which "
                  "counts nowhere [mask, where it is in the file]")
      ->type_name("NAME");
  add_number<std::int64_t>(command, "--active", a->active, 0, kMostNumber,
                           "experts of a token, k (softmax: all)")
      ->type_name("k");
  command.add_option("--activation", a->activation, "relu, gelu, silu or swiglu [relu]")
      ->type_name("NAME");
  command.add_flag("--train", a->train, "as in training (default)");
  command.add_flag("--eval", a->evaluate, "as at inference");
  command.add_flag("--dropless", a->dropless,
                   "with --eval: no choice is dropped, whatever the router's capacity");
  command.add_flag("--causal", a->causal, "refuse what lets a token see later ones");
  command.add_flag("--force", a->force, "let through combinations that are refused");
  add_number<std::uint64_t>(command, "--seed", a->seed, 0, kHighest<std::uint64_t>,
                            "of the router's draws, 0 to 2^64 - 1 [1]");
  command.add_option("--option", a->options, "an option of router, estimator or layer")
      ->type_name("key=value")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add_device(command, a->device);
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run(*a); });
}

}  // namespace moegrad
