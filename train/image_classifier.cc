#include "train/image_classifier.h"

#include <string>
#include <utility>

#include "ops/ops.h"

namespace moegrad {
namespace {

const std::string kImageMixture = "mixture.";

}  // namespace

ImageClassifier::ImageClassifier(std::int64_t pixels, std::vector<Target> targets,
                                 const LayerConfig& mixture)
    : Model(std::move(targets), mixture), head_{mixture.size.output, outputs_of(this->targets())} {
  if (mixture.size.model != pixels) {
    fail("image-classifier", "width {} for images of {} pixels. Give --width {}.",
         mixture.size.model, pixels, pixels);
  }
}

void ImageClassifier::declare(Parameters& parameters, const Rng& rng) const {
  mixture().declare(kImageMixture, parameters, rng);
  head_.declare("head.", parameters, rng);
}

Pass ImageClassifier::forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                              PassMode mode) const {
  const auto weights = [&](std::string_view prefix) { return bind(tape, parameters, prefix); };
  Pass pass;
  MixturePass& mix =
      pass.mixtures.emplace_back(MixturePass{kImageMixture, weights(kImageMixture), batch.ids});
  LayerInput in{tape.constant(batch.x), mix.weights, mode.training};
  in.ids = mix.ids;
  in.dropless = mode.dropless;
  mix.out = mixture().forward(in);
  pass.predictions =
      predictions_of(targets(), head_(relu(mix.out.y), weights("head.")), batch.labels);
  return pass;
}

}  // namespace moegrad
