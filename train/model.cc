#include "train/model.h"

#include <utility>

#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// Of the initial parameters: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kParameterStream = 0x70617261'00000000U;

const std::string kMixture = "mixture.";

// Each row n times, one behind the other.
Tensor repeated(const Tensor& rows, std::int64_t n) {
  if (n == 1) return rows;
  Shape shape = rows.shape();
  shape[0] *= n;
  const Tensor out = rows.like(shape);
  const std::int64_t each = rows.numel() / rows.size(0);
  for (std::int64_t copy = 0; copy < n; ++copy) {
    kernels(rows.device())
        .copy_block(rows, 0, each, rows.size(0), each, copy * each, n * each, out);
  }
  return out;
}

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
  mixture_.declare(kMixture, parameters, rng);
  norm2_.declare("norm2.", parameters);
  head_.declare("head.", parameters, rng);
  for (Parameter& p : parameters) p.value = p.value.to(dtype);
  return parameters;
}

Classifier::Output Classifier::forward(Var x, const Parameters& parameters, bool training,
                                       const Tensor& ids, bool dropless) const {
  const auto weights = [&](std::string_view prefix) { return bind(x.tape(), parameters, prefix); };
  const Var h = norm1_(relu(input_(x, weights("input."))), weights("norm1."));
  Output out;
  out.weights = weights(kMixture);
  LayerInput in{h, out.weights, training};
  in.ids = ids;
  in.dropless = dropless;
  out.mixture = mixture_.forward(in);
  out.logits = head_(norm2_(h + out.mixture.y, weights("norm2.")), weights("head."));
  return out;
}

Classifier::Losses Classifier::losses(Tape& tape, const Batch& batch,
                                      const Parameters& parameters) const {
  const Estimator& estimator = mixture_.estimator();
  const std::int64_t samples = estimator.samples();
  const Var x = tape.constant(repeated(batch.x, samples));
  const Tensor labels = repeated(batch.labels, samples);
  const Output out = forward(x, parameters, true, repeated(batch.ids, samples));
  Losses losses;
  losses.task = losses.total = cross_entropy(out.logits, labels);
  losses.mixture = out.mixture;
  if (estimator.needs_losses()) {
    const Var chosen = take_columns(out.logits, labels.reshape({labels.numel(), 1}));
    const Var each = logsumexp(out.logits, 1) - reshape(chosen, {labels.numel()});
    losses.total = mixture_.objective(each, out.mixture, {out.mixture.x, out.weights});
  }
  if (out.mixture.auxiliary.defined()) losses.total = losses.total + out.mixture.auxiliary;
  return losses;
}

void Classifier::update(Parameters& parameters, const Updates& updates, const Tensor& number) {
  for (const auto& [name, value] : updates) {
    Parameter* const state = parameters.find(kMixture + name);
    if (state == nullptr || !(state->value.shape() == value.shape())) {
      fail("train", "the layer updates '{}' {}, which it has not declared.", name, value.shape());
    }
    const Tensor& target = state->value;
    kernels(target.device())
        .copy_if_finite(number, value.to(target.device()).to(target.dtype()), target);
  }
}

}  // namespace moegrad
