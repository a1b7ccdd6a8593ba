#pragma once

#include "moe/layer.h"
#include "train/dataset.h"
#include "train/modules.h"

namespace moegrad {

// A small classifier around one mixture layer, for x [B, inputs]:
//
//   h = layer_norm(relu(x W + b))          [B, D]   input.*, norm1.*
//   logits = layer_norm(h + mixture(h)) W' + b'     mixture.*, norm2.*, head.*
class Classifier {
 public:
  // The mixture maps D to D: config.size.output is set to config.size.model.
  Classifier(std::int64_t inputs, std::int64_t classes, LayerConfig config);

  // The initial parameters: drawn in f64 from the seed, then converted, so that f32 and f64 start
  // from the same values.
  Parameters initial(std::uint64_t seed, DType dtype) const;

  struct Output {
    Var logits;  // [B, classes]
    LayerOutput mixture;
    Weights weights;  // of the mixture
  };
  // `ids`: i32 [B], for routers that read them. `dropless`: LayerInput::dropless.
  Output forward(Var x, const Parameters& parameters, bool training, const Tensor& ids = {},
                 bool dropless = false) const;

  // Of a step of training, for a batch on the device of the parameters.
  struct Losses {
    Var task;   // the mean cross-entropy; of all samples where the estimator draws several
    Var total;  // what is minimised: that, or the estimator's objective, and the auxiliary losses
    LayerOutput mixture;
  };
  Losses losses(Tape& tape, const Batch& batch, const Parameters& parameters) const;
  // Writes the new values of the mixture's state, LayerOutput::updates, where `number` (f64 []) is
  // finite.
  static void update(Parameters& parameters, const Updates& updates, const Tensor& number);

  const Layer& mixture() const { return mixture_; }

 private:
  Layer mixture_;
  Linear input_;
  LayerNormModule norm1_;
  LayerNormModule norm2_;
  Linear head_;
};

}  // namespace moegrad
