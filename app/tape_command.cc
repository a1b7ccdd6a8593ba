#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "app/commands.h"
#include "lab/tape_page.h"
#include "lab/tape_programs.h"
#include "moe/layer.h"
#include "moe/options.h"
#include "tensor/files.h"
#include "tensor/put.h"

namespace moegrad {
namespace {

constexpr std::int64_t kMostOfSize = 64;
constexpr std::string_view kLayer = "layer";

struct TapeArguments {
  std::string program = std::string(kLayer);
  std::string out = "tape.html";
  LayerProgram layer;
  std::string form = "fused";
  std::vector<std::string> options;
  std::vector<const CLI::Option*> of_layer;  // flags that other programs have no use for
};

void describe(std::string& text, std::string_view name, std::string_view summary) {
  text += fmt::format("  {:<18}{}\n", name, summary);
}
std::string list_of_programs() {
  std::string text = "Programs:\n";
  describe(text, kLayer, "a mixture layer on a few tokens, by the flags above");
  for (const SmallProgram& p : small_programs()) describe(text, p.name, p.summary);
  return text;
}

const SmallProgram& small_program(const std::string& name) {
  std::vector<std::string> names = {std::string(kLayer)};
  for (const SmallProgram& p : small_programs()) {
    if (p.name == name) return p;
    names.push_back(p.name);
  }
  fail("tape", "there is no program '{}'. Did you mean '{}'? See --help.", name,
       nearest(name, names));
}

std::string title_of_layer(const LayerProgram& layer) {
  const LayerConfig& c = layer.config;
  return fmt::format("One mixture layer: router {}, estimator {}", c.router, c.estimator);
}
std::string text_of_layer(const LayerProgram& layer) {
  const LayerSize& s = layer.config.size;
  return fmt::format(
      "{} tokens of width {}, {} experts of hidden width {}, {} active; training, seed {}. The "
      "loss is the sum of y "
      "dy, so that the adjoint of y is dy.",
      layer.tokens, s.model, s.experts, s.hidden, s.active, layer.seed);
}

void complete_layer(TapeArguments& a) {
  if (a.form != "fused" && a.form != "written-out") {
    fail("tape", "--form is '{}'. Use fused or written-out.", a.form);
  }
  a.layer.form = a.form == "fused" ? Form::fused : Form::written;
  LayerConfig& config = a.layer.config;
  config.options = option_map("tape", a.options);
  config.size.output = config.size.model;
  if (config.router == "softmax") config.size.active = config.size.experts;
}

void require_no_layer_flag(const TapeArguments& a) {
  for (const CLI::Option* flag : a.of_layer) {
    if (flag->count() == 0) continue;
    fail("tape", "{} is for the program 'layer', and this is '{}'. Leave it out.", flag->get_name(),
         a.program);
  }
}

int run_tape(TapeArguments& a) {
  Parameters parameters;  // must outlive the tape
  Tape tape({.rng = Rng{a.layer.seed}});
  Recorded recorded;
  TapePage page;
  if (a.program == kLayer) {
    complete_layer(a);
    recorded = record_layer(tape, a.layer, parameters);
    page.title = title_of_layer(a.layer);
    page.text = text_of_layer(a.layer);
  } else {
    const SmallProgram& program = small_program(a.program);
    require_no_layer_flag(a);
    recorded = program.record(tape);
    page.title = fmt::format("{}: {}", program.name, program.summary);
    page.text = program.text;
  }
  page.names = recorded.names;
  const std::string html = tape_page(tape, recorded.output, page);
  write_file_atomic(a.out, html);
  put(stdout, "{} nodes, {} bytes saved for backward, {:.1f} MB, written to {}\n", tape.size(),
      tape.bytes_saved(), static_cast<double>(html.size()) / 1e6, shown(a.out));
  return kOk;
}

}  // namespace

void add_tape(CLI::App& app, Global& global) {
  const auto a = std::make_shared<TapeArguments>();
  a->layer.config.size = {.model = 2, .hidden = 3, .output = 2, .experts = 4, .active = 2};
  LayerConfig& config = a->layer.config;
  CLI::App& command = add_command(
      app, "tape",
      "A page of a tape, for any browser: its graph, and of each node value, adjoint, claim and "
      "saved bytes, to step through forward and backward.",
      "moegrad tape layer --router moesart --out tape.html");
  command.footer(list_of_programs() + "\n" + command.get_footer());
  command.add_option("PROGRAM", a->program, "see below [layer]")->type_name("");
  command.add_option("--out", a->out, "the page, one HTML file [tape.html]")->type_name("FILE");
  const auto of_layer = [&](const CLI::Option* flag) { a->of_layer.push_back(flag); };
  of_layer(command.add_option("--router", config.router, "[top-k]")->type_name("NAME"));
  of_layer(command.add_option("--estimator", config.estimator, "[sparse]")->type_name("NAME"));
  of_layer(command
               .add_option("--router-gradient", config.router_gradient,
                           "an estimator for the router's gradient alone")
               ->type_name("NAME"));
  of_layer(command
               .add_option("--expert-gradient", config.expert_gradient,
                           "an estimator for the experts' gradient alone")
               ->type_name("NAME"));
  of_layer(
      command.add_option("--form", a->form, "fused, or written-out: from plain operations [fused]")
          ->type_name("NAME"));
  const auto size = [&](const char* flag, std::int64_t& value, const std::string& help) {
    of_layer(add_number<std::int64_t>(command, flag, value, 1, kMostOfSize, help));
  };
  size("--tokens", a->layer.tokens, "tokens [3]");
  size("--width", config.size.model, "numbers of a token [2]");
  size("--hidden", config.size.hidden, "hidden width of an expert [3]");
  size("--experts", config.size.experts, "experts [4]");
  size("--active", config.size.active, "experts of a token; softmax uses all [2]");
  add_number<std::uint64_t>(command, "--seed", a->layer.seed, 0, kHighest<std::uint64_t>,
                            "of values and draws, 0 to 2^64 - 1 [1]");
  of_layer(command.add_option("--option", a->options, "an option of router, estimator or layer")
               ->type_name("key=value")
               ->expected(1)
               ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll));
  command.callback([a, &global] { global.exit_code = run_tape(*a); });
}

}  // namespace moegrad
