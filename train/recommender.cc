#include "train/recommender.h"

#include <algorithm>
#include <string>
#include <utility>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kTableDeviation = 0.1;

// What the gates have in common, of a mixture's parameters.
bool is_shared(std::string_view name) {
  return name.starts_with("experts.") || name.starts_with("shared.");
}

}  // namespace

Recommender::Recommender(std::vector<Field> fields, std::vector<Target> targets, LayerConfig config)
    : Model(std::move(targets), square(std::move(config))),
      fields_(std::move(fields)),
      embedding_(std::max<std::int64_t>(1, mixture().config().size.model / 4)),
      input_{embedding_ * std::ssize(fields_), mixture().config().size.model},
      norm_{input_.outputs} {
  if (fields_.empty()) fail("recommender", "it has no field. Give one at least.");
  for (const Field& field : fields_) columns_ += field.columns();
  for (const Target& target : this->targets()) {
    for (const char* part : {"embedding", "input", "norm1", "experts", "shared"}) {
      if (target.name != part) continue;
      fail("recommender", "a target is named '{}', as a part of the model. Give another name.",
           part);
    }
  }
}

Linear Recommender::head(const Target& target) const {
  return {input_.outputs, outputs_of(target)};
}

void Recommender::declare(Parameters& parameters, const Rng& rng) const {
  for (const Field& field : fields_) {
    const std::string name = "embedding." + field.name;
    parameters
        .add(name,
             rng.named(name).normal({field.values, embedding_}, DType::f64, 0.0, kTableDeviation))
        .decays = true;
  }
  input_.declare("input.", parameters, rng);
  norm_.declare("norm1.", parameters);
  // Of the mixture, what is shared or what is not.
  const auto declare_mixture = [&](const std::string& prefix, bool shared) {
    Parameters all;
    mixture().declare(prefix, all, rng);
    for (const Parameter& p : all) {
      if (is_shared(std::string_view(p.name).substr(prefix.size())) == shared) {
        parameters.add(p.name, p.value) = p;
      }
    }
  };
  declare_mixture("", true);
  for (const Target& target : targets()) {
    const std::string prefix = target.name + ".";
    declare_mixture(prefix, false);
    norm_.declare(prefix + "norm2.", parameters);
    head(target).declare(prefix + "head.", parameters, rng);
  }
}

Var Recommender::embedded(Tape& tape, const Tensor& x, const Parameters& parameters) const {
  const Weights tables = bind(tape, parameters, "embedding.");
  std::vector<Var> parts;
  std::int64_t column = 0;
  for (const Field& field : fields_) {
    const Var table = tables.at(field.name);
    const Tensor ids = columns_of(x, column, column + field.columns());
    column += field.columns();
    if (!field.several) {
      parts.push_back(embedding(table, ids.reshape({x.size(0)})));
      continue;
    }
    const Var there = tape.constant(ids.to(table.dtype()));
    const Var count = sum(there, 1, true);
    parts.push_back(matmul(there, table) / maximum(count, affine(count, 0.0, 1.0)));
  }
  return concat(parts, 1);
}

Pass Recommender::forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                          PassMode mode) const {
  if (batch.x.dtype() != DType::i32 || batch.x.size(1) != columns_) {
    fail("recommender", "x is {} {}. It must be i32 [B, {}].", name_of(batch.x.dtype()),
         batch.x.shape(), columns_);
  }
  const auto weights = [&](std::string_view prefix) {
    return moegrad::bind(tape, parameters, prefix);
  };
  const Weights common = weights("");
  const Var h = norm_(relu(input_(embedded(tape, batch.x, parameters), weights("input."))),
                      weights("norm1."));
  Pass pass;
  pass.mixtures.reserve(targets().size());
  for (std::size_t i = 0; i < targets().size(); ++i) {
    const Target& target = targets()[i];
    const std::string prefix = target.name + ".";
    MixturePass& mix =
        pass.mixtures.emplace_back(MixturePass{prefix, weights(prefix), column_of(batch.x, 0)});
    for (const auto& [name, value] : common) {
      if (is_shared(name)) mix.weights.set(name, value);
    }
    LayerInput in{h, mix.weights, mode.training};
    in.ids = mix.ids;
    in.dropless = mode.dropless;
    mix.out = mixture().forward(in);
    const Var value =
        head(target)(norm_(h + mix.out.y, weights(prefix + "norm2.")), weights(prefix + "head."));
    pass.predictions.push_back(
        {predicted(target, value), column_of(batch.labels, static_cast<std::int64_t>(i))});
  }
  return pass;
}

}  // namespace moegrad
