#include <csignal>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "app/commands.h"
#include "app/outcome.h"
#include "moe/options.h"

namespace moegrad {
namespace {

std::vector<std::string> flags_of(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// What is wrong with the command line, with the nearest name where one is unknown.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (!chosen.empty() && !chosen.front()->get_subcommands(nullptr).empty()) {
    return explain(*chosen.front(), error);
  }
  const CLI::App& command = chosen.empty() ? app : *chosen.front();
  for (const std::string& word : command.remaining(true)) {
    if (word.starts_with("-")) {
      return shown_format("[{}] there is no flag '{}'. Did you mean '{}'?", command.get_name(),
                          word, nearest(word, flags_of(command)));
    }
    if (!chosen.empty()) break;
    std::vector<std::string> names;
    for (const CLI::App* known : app.get_subcommands(nullptr)) names.push_back(known->get_name());
    return shown_format("[{}] there is no command '{}'. Did you mean '{}'?", app.get_name(), word,
                        nearest(word, names));
  }
  return shown_format("[{}] {}. See --help.", command.get_name(), error.what());
}

int run(int argc, char** argv) {
  CLI::App app("Automatic differentiation for sparse mixture-of-experts models.", "moegrad");
  app.set_version_flag("--version", std::string("moegrad ") + MOEGRAD_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Example:\n  moegrad train synthetic --epochs 3\n\n`moegrad COMMAND --help` says more.");
  app.get_formatter()->column_width(34);
  Global global;
  add_train(app, global);
  add_predict(app, global);
  add_evaluate(app, global);
  add_gradcheck(app, global);
  add_list(app, global);
  add_layer(app, global);
  add_report(app, global);
  add_sample(app, global);
  add_study(app, global);
  add_tape(app, global);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version, unless they were asked of a command that there is none of.
    const bool known = !app.get_subcommands().empty() || app.remaining().empty();
    if (error.get_exit_code() == 0 && known) {
      std::ostringstream text;
      app.exit(error, text, text);
      put(stdout, "{}", text.str());
      return kOk;
    }
    put(stderr, "moegrad: {}\n", explain(app, error));
    return kUserMistake;
  }
  return global.exit_code;
}

}  // namespace
}  // namespace moegrad

int main(int argc, char** argv) {
  moegrad::open_standard_streams();
  // A file beyond the limit of its size is an error with a message, and a reader of the text who is
  // gone is lost text: neither is the end of the program.
  for (const int number : {SIGXFSZ, SIGPIPE}) std::signal(number, SIG_IGN);
  return moegrad::code_with_lost_text(
      moegrad::outcome_of([&] { return moegrad::run(argc, argv); }));
}
