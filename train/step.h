#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/model.h"
#include "train/optimiser.h"

namespace moegrad {

// Of the mixture, for a line of metrics.
struct MixtureReport {
  std::vector<std::pair<std::string, double>> losses;  // by name, without their coefficients
  std::vector<double> expert_load;                     // shares
  double dropped = 0.0;                                // the part of all choices
};

// What a step tells.
struct StepReport {
  double loss = 0.0;       // of the task alone
  double auxiliary = 0.0;  // what is added to it
  double gradient_norm = 0.0;
  std::optional<MixtureReport> mixture = {};  // where it was asked for
  // Why there was no step: "the loss is nan: [layer_norm] node 8 holds nan at ...". Empty: it was
  // made.
  std::string failure = {};
};

// Steps of training: forward, backward, the optimiser's rule, the new state of the mixture. All on
// the device of the parameters; what is told is read from it once, by a single transfer.
class TrainingStep {
 public:
  TrainingStep(const Classifier& model, Parameters& parameters, Optimiser& optimiser,
               double max_norm)
      : model_(model), parameters_(parameters), optimiser_(optimiser), max_norm_(max_norm) {}

  // For a batch, of the host. Where the loss or the norm of the gradients is not finite nothing is
  // changed, no parameter and no state, and the step is run again to find the culprit.
  StepReport operator()(const Batch& batch, const Rng& rng, double learning_rate, bool of_mixture);

 private:
  std::string cause_of_loss(const Batch& batch, const Rng& rng) const;
  std::string cause_of_norm(const Gradients& gradients) const;

  const Classifier& model_;
  Parameters& parameters_;
  Optimiser& optimiser_;
  double max_norm_;
  Tape tape_;
};

}  // namespace moegrad
