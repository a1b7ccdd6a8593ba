#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moe/layer.h"
#include "train/dataset.h"
#include "train/modules.h"

namespace moegrad {

// Of one target of a task, what a model tells of a batch.
struct Prediction {
  Var value;      // as Target::Kind says: [M, classes] or [M]
  Tensor labels;  // i32 [M]; -1: not known, counts nowhere
};

// One mixture layer in a pass.
struct MixturePass {
  std::string name;  // of its parameters: "mixture.", "1.mixture."
  Weights weights;
  Tensor ids = {};  // as in LayerInput
  std::int64_t sequence = 1;
  LayerOutput out = {};
  Tensor mask = {};  // as in LayerInput
};

struct Pass {
  PoolVector<Prediction> predictions;  // one for each target
  PoolVector<MixturePass> mixtures;    // from the input on
  Var other;                           // a further loss; undefined: none
};

struct PassMode {
  bool training = true;
  bool dropless = false;  // LayerInput::dropless
};

// What is trained: a function of a batch and of parameters, which it names and does not hold. All of
// its mixture layers have one configuration.
class Model {
 public:
  Model(std::vector<Target> targets, const LayerConfig& mixture);
  virtual ~Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // The initial parameters: drawn in f64 from the seed, then converted, so that f32 and f64 start
  // from the same values.
  Parameters initial(std::uint64_t seed, DType dtype) const;

  // For a batch on the device of the parameters.
  virtual Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                       PassMode mode = {}) const = 0;

  // Of a step of training.
  struct Losses {
    Var task;   // the sum over the targets of their mean losses; over all samples where the
                // estimator draws several
    Var total;  // what is minimised: that, or the estimator's objective, and the auxiliary losses
    Var auxiliary;  // of all mixtures; undefined: none
    Pass pass;
  };
  // `labels`: of the whole batch, where this is a part of it. Then the mean over the parts, each by
  // its rows, is the loss of the whole, also of a target that is known of more rows in one part.
  Losses losses(Tape& tape, const Batch& batch, const Parameters& parameters,
                const Tensor& labels = {}) const;

  // Of an example, that a mixture layer sees.
  virtual std::int64_t tokens() const { return 1; }

  const std::vector<Target>& targets() const { return targets_; }
  const Layer& mixture() const { return mixture_; }

 protected:
  // Adds all parameters, f64, each drawn from rng.named(its name): what one part of a model needs
  // moves no number of another.
  virtual void declare(Parameters& parameters, const Rng& rng) const = 0;

 private:
  std::vector<Target> targets_;
  Layer mixture_;
};

// The columns that a target is told in, and its value from them, [B, outputs_of(target)], as
// Target::Kind says.
std::int64_t outputs_of(const Target& target);
Var predicted(const Target& target, Var columns);
// Column i of [B, W] as [B], of [B] all: the labels of target i.
Tensor column_of(const Tensor& labels, std::int64_t i);
// The configuration of a mixture that maps D to D.
LayerConfig square(LayerConfig config);

// The columns of all targets, and what they tell: of heads [B, columns] the first are those of the first
// target, and so on.
std::int64_t outputs_of(const std::vector<Target>& targets);
PoolVector<Prediction> predictions_of(const std::vector<Target>& targets, Var heads,
                                      const Tensor& labels);

// The mean loss of a prediction, over the rows whose label is known.
Var loss_of(const Target& target, const Prediction& prediction);

// The model that a task and a configuration ask for.
struct TrainConfig;
std::unique_ptr<Model> make_model(const TaskShape& task, const TrainConfig& config);

}  // namespace moegrad
