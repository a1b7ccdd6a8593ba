#include <memory>
#include <string>

#include "app/commands.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"
#include "train/sample.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

constexpr std::string_view kSampleExample =
    "moegrad sample runs/language-top-k-sparse --prompt \"To be\" --bytes 400 --top-p 0.9\n"
    "  moegrad sample runs/language-top-k-sparse/checkpoints/step-00000500.safetensors";

struct SampleArguments {
  std::string run;
  std::string prompt;
  std::string out;
  SampleOptions options;
  Device device = Device::cpu;
};

int run(const SampleArguments& a) {
  const StoredModel stored = load_model(checkpoint_of(a.run), a.device);
  const auto* const model = dynamic_cast<const LanguageModel*>(stored.model.get());
  if (model == nullptr) {
    fail("sample", "'{}' was trained on the task {}, which writes no text. Give a run of language.",
         a.run, stored.config.task);
  }
  if (!a.out.empty()) {
    require_distinct("sample", {a.run}, {a.out});
    require_writable(a.out);
  }
  std::string text = a.prompt;
  if (a.out.empty()) put(stdout, "{}", a.prompt);
  sample_text(*model, stored.parameters, a.prompt, a.options, [&](std::string_view piece) {
    text += piece;
    if (a.out.empty()) put(stdout, "{}", piece);
    return lost_text == 0;
  });
  if (a.out.empty()) {
    put(stdout, "\n");
  } else {
    write_file_atomic(a.out, text);
  }
  return kOk;
}

}  // namespace

void add_sample(CLI::App& app, Global& global) {
  const auto a = std::make_shared<SampleArguments>();
  CLI::App& command = add_command(
      app, "sample", "Write text with a language model, piece by piece.", kSampleExample);
  command.add_option("run", a->run, "the folder of a run, or one of its checkpoints")->required();
  command.add_option("--prompt", a->prompt, "what the text begins with")->type_name("TEXT");
  add_number<std::int64_t>(command, "--bytes", a->options.bytes, 1, 1'000'000'000,
                           "to write [256]");
  add_number(command, "--temperature", a->options.temperature, 0.0, 1e6,
             "what logits are divided by; 0: always the likeliest piece [1]");
  add_number(command, "--top-p", a->options.top_p, 1e-9, 1.0,
             "draw from the likeliest pieces whose chances reach it [1]");
  add_number<std::uint64_t>(command, "--seed", a->options.seed, 0, (std::uint64_t{1} << 53) - 1,
                            "of the draws [1]");
  command
      .add_option("--out", a->out, "a file for the text, prompt and all, as it is [the terminal]")
      ->type_name("FILE");
  add_device(command, a->device);
  command.callback([a, &global] { global.exit_code = run(*a); });
}

}  // namespace moegrad
