#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/captured.h"
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
  double objective = 0.0;  // what was minimised
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
  // `captures`: steps are Captured, those of each size and type of batch, to the same bits; anew
  // where a parameter has moved to another place, or where Parameter::rate, decays or trained, or
  // maths() is another. The seed of `rng` and its position must stay.
  TrainingStep(const Classifier& model, Parameters& parameters, Optimiser& optimiser,
               double max_norm, bool captures = false)
      : model_(model),
        parameters_(parameters),
        optimiser_(optimiser),
        max_norm_(max_norm),
        captures_(captures) {}

  // For a batch, of the host. Where the loss or the norm of the gradients is not finite nothing is
  // changed, no parameter and no state, and the step is run again to find the culprit.
  StepReport operator()(const Batch& batch, const Rng& rng, double learning_rate, bool of_mixture);

 private:
  // What a step has to tell, on the device: loss, what was minimised, the auxiliary loss where there
  // is one, of the mixture its losses, dropped choices and load, the norm of the gradients.
  struct Numbers {
    Tensor all;  // f64 [n]
    bool auxiliary = false;
    std::vector<std::string> losses = {};  // of the mixture, their names
  };
  // The whole step, launched.
  Numbers compute(const Batch& there, const Rng& rng, const Tensor& learning_rate, bool of_mixture);
  // The same, captured.
  const Numbers& replay(const Batch& batch, const Rng& rng, double learning_rate);
  static StepReport report_of(const Numbers& numbers, bool of_mixture);
  std::string cause_of_loss(const Batch& there, const Rng& rng) const;
  std::string cause_of_norm(const Batch& there, const Rng& rng) const;

  const Classifier& model_;
  Parameters& parameters_;
  Optimiser& optimiser_;
  double max_norm_;
  bool captures_;
  Tape tape_;

  // What a recorded step has for ever: maths, and of the parameters the places, rates and flags.
  std::vector<std::uint64_t> fixed_numbers() const;

  // Of a size and type of batch.
  struct Recorded {
    explicit Recorded(const Batch& there);
    bool is_for(const Batch& other) const;
    Captured work;
    Batch batch;
    Tensor learning_rate;
    Numbers numbers;
  };
  std::list<Recorded> recorded_;
  std::vector<std::uint64_t> fixed_;
};

}  // namespace moegrad
