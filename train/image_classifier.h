#pragma once

#include <vector>

#include "train/model.h"

namespace moegrad {

// Classes of images by convolutional experts (moe/convolution.h), whose gate sees the pixels, as in the
// experiments of DSelect-k and COMET; for x [B, pixels]:
//
//   logits = relu(mixture(x)) W + b      mixture.*, head.*
//
// The columns of the head are those of all targets, as in Classifier.
class ImageClassifier : public Model {
 public:
  // Errors: a mixture of another width than there are pixels.
  ImageClassifier(std::int64_t pixels, std::vector<Target> targets, const LayerConfig& mixture);

  Pass forward(Tape& tape, const Batch& batch, const Parameters& parameters,
               PassMode mode = {}) const override;

 protected:
  void declare(Parameters& parameters, const Rng& rng) const override;

 private:
  Linear head_;
};

}  // namespace moegrad
