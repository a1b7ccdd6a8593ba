#include <chrono>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "bench/report/cases.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "train/classifier.h"
#include "train/config.h"
#include "train/language_model.h"

namespace moegrad::bench {
void Model::start(Parameters parameters) {
  parameters_ = std::move(parameters);
  for (Parameter& p : parameters_) p.value = p.value.to(DType::f32);
  optimiser_ = std::make_unique<AdamWOptimiser>(parameters_, AdamWOptimiser::Config{});
}

void Model::forward() {
  Tape tape(Tape::Options{.gradients = false});
  loss(tape);
}

void Model::gradient() {
  tape_.backward(loss(tape_));
  tape_.clear();
}

double Model::training_step() {
  const Var l = loss(tape_);
  const double value = l.value().item();
  const Gradients g = tape_.backward(l);
  optimiser_->step(parameters_, g, 2e-3, /*max_norm=*/1.0);
  tape_.clear();
  return value;
}

void Model::step() { training_step(); }

TensorFile Model::file() {
  TensorFile file;
  add_batch(file);
  const Var l = loss(tape_);
  const Gradients g = tape_.backward(l);
  for (const Parameter& p : parameters_) {
    if (!p.trained) continue;
    file.tensors["parameter." + p.name] = p.value.clone();
    file.tensors["gradient." + p.name] = g[p];
  }
  tape_.clear();
  std::vector<float> losses;
  for (int i = 0; i < 3; ++i) losses.push_back(static_cast<float>(training_step()));
  file.tensors["losses"] = Tensor::of<float>({3}, losses);
  return file;
}

namespace {

Tensor random_labels(Rng& rng, std::int64_t rows, std::int64_t classes) {
  const Tensor labels = Tensor::empty({rows}, DType::i32, Device::cpu);
  kernels(Device::cpu).argmax(rng.uniform({rows, classes}, DType::f32), {rows, classes, 1}, labels);
  return labels;
}

class Mlp : public Model {
 public:
  Mlp(std::int64_t rows, std::int64_t width, int layers) : layer_{width, width}, layers_(layers) {
    Rng rng{.seed = 1};
    x_ = rng.normal({rows, width}, DType::f32);
    labels_ = random_labels(rng, rows, width);
    Parameters parameters;
    for (int i = 0; i < layers; ++i) layer_.declare(fmt::format("{}.", i), parameters, rng);
    start(std::move(parameters));
  }

 protected:
  Var loss(Tape& tape) const override {
    Var h = tape.constant(x_);
    for (int i = 0; i < layers_; ++i) {
      h = layer_(i == 0 ? h : relu(h), moegrad::bind(tape, parameters_, fmt::format("{}.", i)));
    }
    return cross_entropy(h, labels_);
  }
  void add_batch(TensorFile& file) const override {
    file.tensors["x"] = x_;
    file.tensors["labels"] = labels_;
  }

 private:
  Linear layer_;
  int layers_;
  Tensor x_, labels_;
};

// The mixture of `moegrad train vision --aux 0.01`, as the peers have it.
LayerConfig vision_mixture() {
  TrainConfig config;
  config.aux = 0.01;
  return config.layer();
}

class Vision : public Model {
 public:
  Vision() : classifier_(784, 10, vision_mixture()) {
    Rng rng{.seed = 1};
    const std::int64_t batch = TrainConfig{}.batch;
    x_ = rng.normal({batch, 784}, DType::f32);
    labels_ = random_labels(rng, batch, 10);
    start(classifier_.initial(1, DType::f32));
  }

 protected:
  Var loss(Tape& tape) const override {
    const Pass pass =
        classifier_.forward(tape, {.x = x_, .labels = labels_, .ids = {}}, parameters_);
    return cross_entropy(pass.predictions[0].value, labels_) + pass.mixtures[0].out.auxiliary;
  }
  void add_batch(TensorFile& file) const override {
    file.tensors["x"] = x_;
    file.tensors["labels"] = labels_;
  }

 private:
  Classifier classifier_;
  Tensor x_, labels_;
};

class Transformer : public Model {
  static constexpr std::int64_t kSequences = 8, kLength = 128, kWidth = 128;

 public:
  Transformer()
      : mixture_({.size = {kWidth, 256, kWidth, 8, 2}}), linear_{kWidth, kWidth}, norm_{kWidth} {
    Rng rng{.seed = 1};
    x_ = rng.normal({kSequences * kLength, kWidth}, DType::f32);
    target_ = rng.normal(x_.shape(), DType::f32);
    Parameters parameters;
    norm_.declare("norm1.", parameters);
    for (const char* name : {"query.", "key.", "value.", "output."}) {
      linear_.declare(name, parameters, rng);
    }
    norm_.declare("norm2.", parameters);
    mixture_.declare("mixture.", parameters, rng);
    start(std::move(parameters));
  }

 protected:
  Var loss(Tape& tape) const override {
    const auto weights = [&](std::string_view prefix) { return bind(tape, parameters_, prefix); };
    const Var x = tape.constant(x_);
    const Var normed = norm_(x, weights("norm1."));
    const auto heads = [&](const char* name) {
      return reshape(linear_(normed, weights(name)), {kSequences, kLength, kWidth});
    };
    const Var mixed = causal_attention(heads("query."), heads("key."), heads("value."));
    const Var h = x + linear_(reshape(mixed, x_.shape()), weights("output."));
    const Weights mixture = weights("mixture.");
    const LayerOutput out = mixture_.forward(norm_(h, weights("norm2.")), mixture, true);
    return mse(h + out.y, tape.constant(target_));
  }
  void add_batch(TensorFile& file) const override {
    file.tensors["x"] = x_;
    file.tensors["target"] = target_;
  }

 private:
  Layer mixture_;
  Linear linear_;
  LayerNormModule norm_;
  Tensor x_, target_;
};

class Language : public Model {
 public:
  explicit Language(const TrainConfig& config)
      : model_({.layers = config.layers, .heads = config.heads, .context = config.context},
               config.layer()) {
    const Shape shape{config.batch, config.context + 1};
    const Tensor drawn = Rng{.seed = 1}.uniform(shape, DType::f64);
    windows_ = Tensor::empty(shape, DType::i32, Device::cpu);
    for (std::int64_t i = 0; i < drawn.numel(); ++i) {
      windows_.write<std::int32_t>()[i] = static_cast<std::int32_t>(drawn.at(i) * 256.0);
    }
    start(model_.initial(1, DType::f32));
  }

 protected:
  Var loss(Tape& tape) const override {
    return model_.losses(tape, {.x = windows_, .labels = {}, .ids = {}}, parameters_).total;
  }
  void add_batch(TensorFile& file) const override { file.tensors["windows"] = windows_; }

 private:
  LanguageModel model_;
  Tensor windows_;
};

TrainConfig language(std::int64_t width, std::int64_t layers, std::int64_t hidden) {
  TrainConfig config;
  config.activation = "swiglu";
  config.width = width;
  config.layers = layers;
  config.hidden = hidden;
  config.aux = 0.01;
  config.batch = 16;
  return config;
}

}  // namespace

std::unique_ptr<Model> make_mlp(std::int64_t rows, std::int64_t width, int layers) {
  return std::make_unique<Mlp>(rows, width, layers);
}
std::unique_ptr<Model> make_vision() { return std::make_unique<Vision>(); }
std::unique_ptr<Model> make_transformer() { return std::make_unique<Transformer>(); }

TrainConfig language_xs() { return language(64, 3, 88); }
TrainConfig language_m() { return language(128, 4, 176); }
std::unique_ptr<Model> make_language(const TrainConfig& config) {
  return std::make_unique<Language>(config);
}

// --- the tape

TapeTimes time_tape(int calls) {
  constexpr int kOperations = 1000;
  const Tensor one = Tensor::full({1}, 1.0, DType::f32, Device::cpu);
  const Tensor factor = Tensor::full({1}, 0.999, DType::f32, Device::cpu);
  static Tape tape;
  using Clock = std::chrono::steady_clock;
  Clock::duration record{}, backward{};
  for (int i = 0; i < calls; ++i) {
    const auto start = Clock::now();
    Var x = tape.variable(one);
    const Var a = tape.variable(factor);
    for (int n = 0; n < kOperations; n += 2) x = x * a + a;
    const auto middle = Clock::now();
    tape.backward(x);
    backward += Clock::now() - middle;
    const auto end = Clock::now();
    tape.clear();
    record += (middle - start) + (Clock::now() - end);
  }
  const auto each = [&](Clock::duration d) {
    return std::chrono::duration<double>(d).count() / (kOperations * static_cast<double>(calls));
  };
  return {each(record), each(backward)};
}

}  // namespace moegrad::bench
