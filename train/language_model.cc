#include "train/language_model.h"

#include <cmath>
#include <utility>

#include "moe/values.h"
#include "ops/ops.h"
#include "train/language.h"

namespace moegrad {
namespace {

constexpr double kRotaryBase = 10000.0;
constexpr double kEmbeddingDeviation = 0.02;

LayerConfig causal(LayerConfig config) {
  config = square(std::move(config));
  config.causal = true;
  config.biases = false;
  return config;
}

Target target_of(const BytePairs& pairs) {
  Target target{.name = pairs.size() == kBytes ? "byte" : "piece", .classes = pairs.size()};
  for (std::int64_t p = 0; p < pairs.size(); ++p) {
    const std::string_view text = pairs.text(static_cast<std::int32_t>(p));
    target.lengths.push_back(static_cast<std::int32_t>(text.size()));
  }
  return target;
}

std::string name_of_layer(std::int64_t layer) { return std::to_string(layer) + "."; }

}  // namespace

LanguageModel::LanguageModel(const Size& size, const LayerConfig& mixture, BytePairs pairs)
    : Model({target_of(pairs)}, causal(mixture)), size_(size), pairs_(std::move(pairs)) {
  if (size.layers < 2) {
    fail("language-model", "{} layers. The first is dense: give 2 or more.", size.layers);
  }
  const std::int64_t width = mixture.size.model;
  if (width % size.heads != 0 || width / size.heads % 2 != 0) {
    fail("language-model",
         "width {} in {} heads. Rotary positions turn pairs of columns: give a width that is an "
         "even "
         "multiple of the heads.",
         width, size.heads);
  }
}

void LanguageModel::declare(Parameters& parameters, const Rng& rng) const {
  const LayerSize& s = mixture().config().size;
  const auto ones = [&](const std::string& name) {
    parameters.add(name, Tensor::full({s.model}, 1.0, DType::f64, Device::cpu));
  };
  const auto matrix = [&](const std::string& name, std::int64_t in, std::int64_t out,
                          double deviation) {
    parameters.add(name, rng.named(name).normal({in, out}, DType::f64, 0.0, deviation)).decays =
        true;
  };
  const double in = 1.0 / std::sqrt(static_cast<double>(s.model));
  // What is added to the residual stream begins small (Radford et al. 2019).
  const double out = kEmbeddingDeviation / std::sqrt(2.0 * static_cast<double>(size_.layers));
  matrix("embedding", pairs_.size(), s.model, kEmbeddingDeviation);
  const std::int64_t d = s.model / size_.heads;
  const Tensor cos = Tensor::empty({size_.context, d}, DType::f64, Device::cpu);
  const Tensor sin = Tensor::empty({size_.context, d}, DType::f64, Device::cpu);
  for (std::int64_t t = 0; t < size_.context; ++t) {
    for (std::int64_t i = 0; i < d; ++i) {
      const double angle =
          static_cast<double>(t) *
          std::pow(kRotaryBase, -2.0 * static_cast<double>(i % (d / 2)) / static_cast<double>(d));
      cos.write<double>()[t * d + i] = std::cos(angle);
      sin.write<double>()[t * d + i] = std::sin(angle);
    }
  }
  parameters.add("rotary.cos", cos, false);
  parameters.add("rotary.sin", sin, false);
  for (std::int64_t l = 0; l < size_.layers; ++l) {
    const std::string layer = name_of_layer(l);
    ones(layer + "norm1");
    for (const char* name : {"q", "k", "v"}) {
      matrix(layer + "attention." + name, s.model, s.model, in);
    }
    matrix(layer + "attention.o", s.model, s.model, out);
    ones(layer + "norm2");
    if (l > 0) {
      mixture().declare(layer + "mixture.", parameters, rng);
      continue;
    }
    const std::int64_t hidden = s.active * s.hidden;
    matrix(layer + "dense.w1", s.model, hidden, in);
    matrix(layer + "dense.w3", s.model, hidden, in);
    matrix(layer + "dense.w2", hidden, s.model, out);
  }
  ones("norm");
}

Var LanguageModel::attention(Var h, const Weights& w, std::int64_t length, Memory* memory,
                             std::size_t layer) const {
  const std::string name = name_of_layer(static_cast<std::int64_t>(layer)) + "attention.";
  const auto heads = [&](const char* which) {
    return split_heads(matmul(h, w.at(name + which)), length, size_.heads);
  };
  const std::int64_t begin = memory != nullptr ? memory->place : 0;
  const auto rotated = [&](Var x) {
    const auto of_places = [&](const char* which) {
      return w.at(which).value().rows(begin, begin + length);
    };
    return rotary(x, of_places("rotary.cos"), of_places("rotary.sin"));
  };
  const Var q = rotated(heads("q"));
  Var k = rotated(heads("k"));
  Var v = heads("v");
  Var out;
  if (memory == nullptr) {
    out = causal_attention(q, k, v);
  } else {  // one place, which attends to all that are known
    Tape& tape = h.tape();
    const auto remember = [&](std::vector<Tensor>& all, Var now) {
      if (all.size() <= layer) all.resize(layer + 1);
      if (all[layer].defined()) {
        const std::vector<Var> parts = {tape.constant(all[layer]), now};
        now = concat(parts, 1);
      }
      all[layer] = now.value();
      return now;
    };
    k = remember(memory->keys, k);
    v = remember(memory->values, v);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    const Var p = softmax(scale * sum(q * k, 2, true), 1);  // [heads, T, 1]
    out = sum(p * v, 1, true);
  }
  return matmul(join_heads(out, size_.heads), w.at(name + "o"));
}

Var LanguageModel::layers(Var h, const Tensor& ids, std::int64_t length,
                          const Parameters& parameters, PassMode mode, Pass& pass,
                          Memory* memory) const {
  Tape& tape = h.tape();
  const Weights w = moegrad::bind(tape, parameters, "");
  for (std::int64_t l = 0; l < size_.layers; ++l) {
    const std::string layer = name_of_layer(l);
    h = h + attention(rms_norm(h, w.at(layer + "norm1")), w, length, memory,
                      static_cast<std::size_t>(l));
    const Var x = rms_norm(h, w.at(layer + "norm2"));
    if (l == 0) {
      const std::string dense = layer + "dense.";
      h = h + matmul(silu(matmul(x, w.at(dense + "w1"))) * matmul(x, w.at(dense + "w3")),
                     w.at(dense + "w2"));
      continue;
    }
    const std::string name = layer + "mixture.";
    MixturePass& mix = pass.mixtures.emplace_back(
        MixturePass{name, moegrad::bind(tape, parameters, name), ids, length});
    LayerInput in{x, mix.weights, mode.training};
    in.ids = mix.ids;
    in.sequence = mix.sequence;
    in.dropless = mode.dropless;
    mix.out = mixture().forward(in);
    h = h + mix.out.y;
  }
  return matmul(rms_norm(h, w.at("norm")), w.at("embedding"), false, true);
}

Pass LanguageModel::forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                            PassMode mode) const {
  const std::int64_t length = batch.x.size(1) - 1;
  if (batch.x.dtype() != DType::i32 || length < 1 || length > size_.context) {
    fail("language-model", "x is {} {}. It must be windows of text, i32 [B, T + 1], T at most {}.",
         name_of(batch.x.dtype()), batch.x.shape(), size_.context);
  }
  const auto flat = [](const Tensor& t) { return t.reshape({t.numel()}); };
  const Tensor ids = flat(columns_of(batch.x, 0, length));
  const Weights w = moegrad::bind(tape, parameters, "embedding");
  Pass pass;
  pass.mixtures.reserve(static_cast<std::size_t>(size_.layers));
  const Var logits = layers(embedding(w.at(""), ids), ids, length, parameters, mode, pass, nullptr);
  pass.predictions = {{logits, flat(columns_of(batch.x, 1, length + 1))}};
  return pass;
}

Tensor LanguageModel::next(std::int32_t piece, const Parameters& parameters, Memory& memory) const {
  if (memory.place >= size_.context) {
    fail("language-model", "place {} of a context of {}. Begin anew with less text.", memory.place,
         size_.context);
  }
  Tape tape(Tape::Options{.gradients = false});
  const Tensor ids = Tensor::full({1}, piece, DType::i32, parameters.device());
  const Weights w = moegrad::bind(tape, parameters, "embedding");
  Pass pass;
  pass.mixtures.reserve(static_cast<std::size_t>(size_.layers));
  const Var logits = layers(embedding(w.at(""), ids), ids, 1, parameters,
                            {.training = false, .dropless = true}, pass, &memory);
  ++memory.place;
  return logits.value().reshape({pairs_.size()});
}

}  // namespace moegrad
