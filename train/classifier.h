#pragma once

#include <vector>

#include "train/model.h"

namespace moegrad {

// Classes of rows, by one mixture layer and a head for each target; for x [B, inputs]:
//
//   h = layer_norm(relu(x W + b))          [B, D]   input.*, norm1.*
//   logits = layer_norm(h + mixture(h)) W' + b'     mixture.*, norm2.*, head.*
//
// With several targets the columns of the head are those of the first, of the second, and so on.
class Classifier : public Model {
 public:
  // The mixture maps D to D: config.size.output is set to config.size.model.
  Classifier(std::int64_t inputs, std::vector<Target> targets, LayerConfig config);
  // Of one target.
  Classifier(std::int64_t inputs, std::int64_t classes, const LayerConfig& config);

  Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
               PassMode mode = {}) const override;

 protected:
  void declare(Parameters& parameters, const Rng& rng) const override;

 private:
  Linear input_;
  LayerNormModule norm1_;
  LayerNormModule norm2_;
  Linear head_;
};

}  // namespace moegrad
