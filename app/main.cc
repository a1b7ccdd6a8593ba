#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <unistd.h>

#include "app/commands.h"
#include "moe/options.h"
#include "tensor/error.h"

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

// Threads that wait for others should sleep: by default they spin, and where other programs want
// the processors too a training step then takes 60 times as long (0.3 s instead of 5 ms on two busy
// cores). OpenMP reads its setting when the program is loaded, so the program is started once more.
void let_waiting_threads_sleep(char** argv) {
  if (::getenv("OMP_WAIT_POLICY") != nullptr || ::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (::setenv("OMP_WAIT_POLICY", "passive", 1) == 0) ::execv("/proc/self/exe", argv);
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
  add_gradcheck(app, global);
  add_list(app, global);
  add_layer(app, global);
  add_study(app, global);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version, unless they were asked of a command that there is none of.
    const bool known = !app.get_subcommands().empty() || app.remaining().empty();
    if (error.get_exit_code() == 0 && known) return app.exit(error);
    fmt::print(stderr, "moegrad: {}\n", explain(app, error));
    return kUserMistake;
  } catch (const Error& error) {
    fmt::print(stderr, "moegrad: {}\n", error.what());
    return kUserMistake;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "moegrad: [memory] not enough memory. Choose smaller sizes.\n");
    return kUserMistake;
  }
  return global.exit_code;
}

}  // namespace
}  // namespace moegrad

int main(int argc, char** argv) {
  moegrad::let_waiting_threads_sleep(argv);
  return moegrad::run(argc, argv);
}
