#include "train/classifier.h"

#include <string>
#include <utility>

#include "ops/ops.h"

namespace moegrad {
namespace {

const std::string kMixture = "mixture.";

}  // namespace

Classifier::Classifier(std::int64_t inputs, std::vector<Target> targets, LayerConfig config)
    : Model(std::move(targets), square(std::move(config))),
      input_{inputs, mixture().config().size.model},
      norm1_{input_.outputs},
      norm2_{input_.outputs},
      head_{input_.outputs, outputs_of(this->targets())} {}

Classifier::Classifier(std::int64_t inputs, std::int64_t classes, const LayerConfig& config)
    : Classifier(inputs, {{.name = "class", .classes = classes}}, config) {}

void Classifier::declare(Parameters& parameters, const Rng& rng) const {
  input_.declare("input.", parameters, rng);
  norm1_.declare("norm1.", parameters);
  mixture().declare(kMixture, parameters, rng);
  norm2_.declare("norm2.", parameters);
  head_.declare("head.", parameters, rng);
}

Pass Classifier::forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                         PassMode mode) const {
  const auto weights = [&](std::string_view prefix) { return bind(tape, parameters, prefix); };
  const Var x = tape.constant(batch.x);
  const Var h = norm1_(relu(input_(x, weights("input."))), weights("norm1."));
  Pass pass;
  MixturePass& mix =
      pass.mixtures.emplace_back(MixturePass{kMixture, weights(kMixture), batch.ids});
  LayerInput in{h, mix.weights, mode.training};
  in.ids = mix.ids;
  in.dropless = mode.dropless;
  mix.out = mixture().forward(in);
  const Var heads = head_(norm2_(h + mix.out.y, weights("norm2.")), weights("head."));
  pass.predictions = predictions_of(targets(), heads, batch.labels);
  return pass;
}

}  // namespace moegrad
