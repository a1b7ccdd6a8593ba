#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "tensor/captured.h"
#include "train/model.h"
#include "train/optimiser.h"

namespace moegrad {

// Of a mixture layer, for a line of metrics.
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
  std::vector<MixtureReport> mixtures = {};  // of each layer, where it was asked for
  // Why there was no step: "the loss is nan: [layer_norm] node 8 holds nan at ...". Empty: it was
  // made.
  std::string failure = {};
};

// How steps are made.
struct StepOptions {
  double max_norm = 0.0;  // of the gradients, Optimiser::step
  // A batch is computed in so many parts, one after the other, whose gradients are added: the memory
  // of one part for the gradient of all, but for what a mixture makes of a whole batch (balance
  // losses, capacities, its state, which goes on from part to part).
  std::int64_t parts = 1;
  // Steps are Captured, those of each size and type of batch, to the same bits; anew where a
  // parameter has moved to another place, or where Parameter::rate, decays or trained, or maths() is
  // another. The seed of the steps' numbers and their position must stay.
  bool captures = false;
  // Another model of the same parameters and state: the gradient of each parameter is multiplied by
  // its norm there, for the same batch and draws, over its own; where that is 0 it stays 0. It tells
  // the direction of an estimator from its size. Not of captured steps: norms are read on the host.
  const Model* norms_of = nullptr;
};

// Steps of training: forward, backward, the optimiser's rule, the new state of the mixtures. All on
// the device of the parameters; what is told is read from it once, by a single transfer.
class TrainingStep {
 public:
  TrainingStep(const Model& model, Parameters& parameters, Optimiser& optimiser,
               const StepOptions& options)
      : model_(model), parameters_(parameters), optimiser_(optimiser), options_(options) {}

  // For a batch, of the host. Where the loss or the norm of the gradients is not finite nothing is
  // changed, no parameter and no state, and the step is run again to find the culprit.
  StepReport operator()(const Batch& batch, const Rng& rng, double learning_rate, bool of_mixtures);

 private:
  // What a step has to tell, on the device: of each part loss, what was minimised and the auxiliary
  // loss where there is one; then of each mixture of the last part its losses, dropped choices and
  // load; last the norm of the gradients.
  struct Numbers {
    Tensor all;                   // f64 [n]
    std::vector<double> weights;  // of each part: its rows by those of the batch
    bool auxiliary = false;
    std::vector<std::vector<std::string>> losses = {};  // of each mixture, their names
  };
  // The parts of a batch.
  std::vector<Batch> parts_of(const Batch& batch) const;
  // The whole step, launched.
  Numbers compute(const Batch& there, const Rng& rng, const Tensor& learning_rate,
                  bool of_mixtures);
  // The same, captured.
  const Numbers& replay(const Batch& batch, const Rng& rng, double learning_rate);
  void take_norms(const Gradients& gradients, const Batch& part, const Tensor& labels,
                  const Rng& rng, double weight) const;
  StepReport report_of(const Numbers& numbers) const;
  std::string cause_of_loss(const Batch& there, const Rng& rng) const;
  std::string cause_of_norm(const Batch& there, const Rng& rng) const;

  const Model& model_;
  Parameters& parameters_;
  Optimiser& optimiser_;
  StepOptions options_;
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
