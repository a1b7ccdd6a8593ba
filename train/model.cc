#include "train/model.h"

#include <utility>

#include "moe/values.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// Of the initial parameters: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kParameterStream = 0x70617261'00000000U;

// Each row n times, one behind the other.
Tensor repeated(const Tensor& rows, std::int64_t n) {
  if (n == 1 || !rows.defined()) return rows;
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

// f64 []: the part of the labels that are known, or would be if one were.
Tensor known_share(const Tensor& labels) {
  const std::int64_t n = labels.numel();
  const Tensor known = greater(labels, scalar_like(labels, -1.0)).to(DType::f64).reshape({1, n});
  const Tensor count = reduce_rows(Reduction::sum, known).reshape({});
  return compute<functor::Affine>(compute<functor::Maximum>(count, scalar_like(count, 1.0)),
                                  {1.0 / static_cast<double>(n), 0.0});
}

// Of each row, for an estimator that weighs the losses of its samples.
Var loss_of_each(const Model& model, const Pass& pass) {
  if (pass.predictions.size() != 1 || pass.mixtures.size() != 1 || pass.other.defined() ||
      model.targets().front().kind != Target::Kind::classes) {
    fail("train",
         "the estimator {} weighs the loss of each row: it takes a model of one mixture layer and "
         "one class to tell. This one has {} layers and {} targets. Use another estimator.",
         model.mixture().config().estimator, pass.mixtures.size(), pass.predictions.size());
  }
  const auto& [logits, labels] = pass.predictions.front();
  const Var chosen = take_columns(logits, labels.reshape({labels.numel(), 1}));
  return logsumexp(logits, 1) - reshape(chosen, {labels.numel()});
}

}  // namespace

std::int64_t outputs_of(const Target& target) {
  return target.kind == Target::Kind::classes ? target.classes : 1;
}

Var predicted(const Target& target, Var columns) {
  return target.kind == Target::Kind::classes ? columns : reshape(columns, {columns.size(0)});
}

Tensor column_of(const Tensor& labels, std::int64_t i) {
  return labels.rank() == 1 ? labels : columns_of(labels, i, i + 1).reshape({labels.size(0)});
}

std::int64_t outputs_of(const std::vector<Target>& targets) {
  std::int64_t width = 0;
  for (const Target& t : targets) width += outputs_of(t);
  return width;
}

PoolVector<Prediction> predictions_of(const std::vector<Target>& targets, Var heads,
                                      const Tensor& labels) {
  PoolVector<Prediction> predictions;
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const std::int64_t end = begin + outputs_of(targets[i]);
    const Var value = targets.size() == 1 ? heads : slice(heads, 1, begin, end);
    predictions.push_back(
        {predicted(targets[i], value), column_of(labels, static_cast<std::int64_t>(i))});
    begin = end;
  }
  return predictions;
}

LayerConfig square(LayerConfig config) {
  config.size.output = config.size.model;
  return config;
}

Var loss_of(const Target& target, const Prediction& prediction) {
  const auto& [value, labels] = prediction;
  if (target.kind == Target::Kind::classes) {
    return target.partial ? cross_entropy(value, labels, -1) : cross_entropy(value, labels);
  }
  Tape& tape = value.tape();
  const Var truth = tape.constant(labels.to(value.dtype()));
  const Var each = target.kind == Target::Kind::binary ? binary_cross_entropy(value, truth)
                                                       : squared_difference(value, truth);
  if (!target.partial) return mean(each);
  const Tensor known = greater(truth, affine(truth, 0.0, -0.5));
  const Var count = sum(tape.constant(known.to(value.dtype())));
  return sum(where(known, each, affine(each, 0.0, 0.0))) / maximum(count, affine(count, 0.0, 1.0));
}

Model::Model(std::vector<Target> targets, const LayerConfig& mixture)
    : targets_(std::move(targets)), mixture_(mixture) {
  if (targets_.empty()) fail("model", "it has no target. Give one at least.");
}

Parameters Model::initial(std::uint64_t seed, DType dtype) const {
  Parameters parameters;
  Rng rng{seed, kParameterStream, 0};
  declare(parameters, rng);
  for (Parameter& p : parameters) p.value = p.value.to(dtype);
  return parameters;
}

Model::Losses Model::losses(Tape& tape, const Batch& batch, const Parameters& parameters,
                            const Tensor& labels) const {
  const Estimator& estimator = mixture_.estimator();
  const std::int64_t n = estimator.samples();
  const Batch rows = {.x = repeated(batch.x, n),
                      .labels = repeated(batch.labels, n),
                      .ids = repeated(batch.ids, n),
                      .guide = repeated(batch.guide, n)};
  Losses l;
  l.pass = forward(tape, rows, parameters, {.training = true});
  const auto add = [](Var& sum, Var v) { sum = sum.defined() ? sum + v : v; };
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    Var loss = loss_of(targets_[i], l.pass.predictions[i]);
    if (labels.defined() && targets_[i].partial) {
      const auto column = static_cast<std::int64_t>(i);
      const Tensor of_part = known_share(column_of(batch.labels, column));
      const Tensor of_whole = known_share(column_of(labels, column));
      loss = loss * tape.constant(compute<functor::Div>(of_part, of_whole).to(loss.dtype()));
    }
    add(l.task, loss);
  }
  l.total = l.task;
  if (estimator.needs_losses()) {
    const Var each = loss_of_each(*this, l.pass);
    const MixturePass& mixture = l.pass.mixtures.front();
    l.total = mixture_.objective(each, mixture.out, {mixture.out.x, mixture.weights});
  }
  if (l.pass.other.defined()) l.total = l.total + l.pass.other;
  for (const MixturePass& mixture : l.pass.mixtures) {
    if (mixture.out.auxiliary.defined()) add(l.auxiliary, mixture.out.auxiliary);
  }
  if (l.auxiliary.defined()) l.total = l.total + l.auxiliary;
  return l;
}

}  // namespace moegrad
