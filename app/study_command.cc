#include "app/commands.h"

namespace moegrad {

void add_study(CLI::App& app, Global& global) {
  CLI::App& command = add_command(app, "study", "Studies of routers and gradient estimators.",
                                  "moegrad study bias --routers moesart --experts 8");
  command.require_subcommand(1);
  add_study_bias(command, global);
  add_study_compare(command, global);
  add_study_sweep(command, global);
  add_study_scale(command, global);
  add_study_learning_rate(command, global);
  add_study_balance(command, global);
  add_study_closeness(command, global);
  add_study_finetune(command, global);
  add_study_specialise(command, global);
  add_study_counterfactual(command, global);
  add_study_inference(command, global);
  add_study_distil(command, global);
  add_study_fidelity(command, global);
}

}  // namespace moegrad
