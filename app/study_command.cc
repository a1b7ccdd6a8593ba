#include "app/commands.h"

namespace moegrad {

void add_study(CLI::App& app, Global& global) {
  CLI::App& command = add_command(app, "study", "Studies of routers and gradient estimators.",
                                  "moegrad study bias --routers moesart --experts 8");
  command.require_subcommand(1);
  add_study_bias(command, global);
  add_study_compare(command, global);
  add_study_distil(command, global);
  add_study_fidelity(command, global);
}

}  // namespace moegrad
