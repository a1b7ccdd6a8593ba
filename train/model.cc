#include "train/model.h"

#include <utility>

#include "ops/ops.h"

namespace moegrad {
namespace {

// Of the initial parameters: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kParameterStream = 0x70617261'00000000U;

LayerConfig square(LayerConfig config) {
  config.size.output = config.size.model;
  return config;
}

}  // namespace

Classifier::Classifier(std::int64_t inputs, std::int64_t classes, LayerConfig config)
    : mixture_(square(std::move(config))),
      input_{inputs, mixture_.config().size.model},
      norm1_{input_.outputs},
      norm2_{input_.outputs},
      head_{input_.outputs, classes} {}

Parameters Classifier::initial(std::uint64_t seed, DType dtype) const {
  Parameters parameters;
  Rng rng{seed, kParameterStream, 0};
  input_.declare("input.", parameters, rng);
  norm1_.declare("norm1.", parameters);
  mixture_.declare("mixture.", parameters, rng);
  norm2_.declare("norm2.", parameters);
  head_.declare("head.", parameters, rng);
  for (Parameter& p : parameters) p.value = p.value.to(dtype);
  return parameters;
}

Classifier::Output Classifier::forward(Var x, const Parameters& parameters, bool training,
                                       const Tensor& ids, bool dropless) const {
  Tape& tape = x.tape();
  Output out;
  const Var h =
      norm1_(relu(input_(x, bind(tape, parameters, "input."))), bind(tape, parameters, "norm1."));
  const Weights weights = bind(tape, parameters, "mixture.");
  LayerInput in{h, weights, training};
  in.ids = ids;
  in.dropless = dropless;
  out.mixture = mixture_.forward(in);
  const Var sum = norm2_(h + out.mixture.y, bind(tape, parameters, "norm2."));
  out.logits = head_(sum, bind(tape, parameters, "head."));
  return out;
}

}  // namespace moegrad
