#include "train/student.h"

#include <string>
#include <utility>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

std::string mixture_of_layer(std::int64_t layer) { return std::to_string(layer) + ".mixture."; }

}  // namespace

Student::Student(EncoderSize size, const Guidance& guidance, std::vector<Target> targets,
                 const LayerConfig& mixture)
    : Model(std::move(targets), square(mixture)), size_(size), guidance_(guidance) {
  size_.width = mixture.size.model;
  if (this->targets().size() != 1 || this->targets()[0].kind != Target::Kind::classes) {
    fail("student", "{} targets. It tells one, of classes.", this->targets().size());
  }
  head_ = {size_.width, this->targets()[0].classes};
}

void Student::declare(Parameters& parameters, const Rng& rng) const {
  declare_encoder(size_, parameters, rng);
  parameters.find("embedding.piece")->trained = false;
  for (std::int64_t l = 0; l < size_.layers; ++l) {
    mixture().declare(mixture_of_layer(l), parameters, rng);
  }
  head_.declare("head.", parameters, rng);
}

Pass Student::forward(Tape& tape, const Batch& batch, const Parameters& parameters,
                      PassMode mode) const {
  const Tokens tokens(batch.x);
  Pass pass;
  pass.mixtures.reserve(static_cast<std::size_t>(size_.layers));
  const Tensor ids = take_columns(tokens.ids.reshape({1, tokens.ids.numel()}),
                                  tokens.rows.reshape({1, tokens.rows.numel()}));
  const Var h =
      encoded(tokens, size_, moegrad::bind(tape, parameters, ""), [&](std::int64_t l, Var x) {
        const std::string name = mixture_of_layer(l);
        MixturePass& mix =
            pass.mixtures.emplace_back(MixturePass{name, moegrad::bind(tape, parameters, name),
                                                   ids.reshape({ids.numel()}), tokens.length});
        mix.mask = tokens.mask;
        LayerInput in{tokens.padded(x), mix.weights, mode.training};
        in.ids = mix.ids;
        in.sequence = mix.sequence;
        in.mask = mix.mask;
        in.dropless = mode.dropless;
        mix.out = mixture().forward(in);
        return tokens.packed(mix.out.y);
      });
  const Var embedding = sentence_embedding(tokens, h);
  const Var logits = head_(embedding, moegrad::bind(tape, parameters, "head."));
  pass.predictions = {{logits, column_of(batch.labels, 0)}};
  if (mode.training && batch.guide.defined()) {
    pass.other = guided(logits, embedding, batch.guide);
  }
  return pass;
}

Var Student::guided(Var logits, Var embedding, const Tensor& guide) const {
  const std::int64_t classes = logits.size(1);
  if (guide.size(1) != classes + size_.width) {
    fail("student", "a guide {} for {} classes and width {}. It must have {} columns.",
         guide.shape(), classes, size_.width, classes + size_.width);
  }
  Tape& tape = logits.tape();
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    return tape.constant(columns_of(guide, begin, end));
  };
  const double t = guidance_.temperature;
  const Var teacher = log_softmax((1.0 / t) * part(0, classes));
  const Var student = log_softmax((1.0 / t) * logits);
  const double texts = static_cast<double>(logits.size(0));
  const Var kl = sum(exp(teacher) * (teacher - student));
  const Var features = sum(square(embedding - part(classes, guide.size(1))));
  return (guidance_.kl * t * t / texts) * kl + (guidance_.features / texts) * features;
}

}  // namespace moegrad
