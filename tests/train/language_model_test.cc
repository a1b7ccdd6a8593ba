#include "train/language_model.h"

#include <cmath>
#include <string>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "tests/train/parameter_differences.h"
#include "train/language.h"

namespace moegrad {
namespace {

using test::error_of;

LayerConfig layer(const std::string& router = "top-k", const std::string& estimator = "sparse") {
  LayerConfig config;
  config.size = {.model = 8, .hidden = 6, .output = 8, .experts = 4, .active = 2};
  config.router = router;
  config.estimator = estimator;
  config.activation = Activation::swiglu;
  return config;
}

constexpr LanguageModel::Size kSmall{.layers = 3, .heads = 2, .context = 5};

Batch windows(std::int64_t n, std::int64_t length, std::uint64_t seed = 1) {
  const Tensor x = Tensor::empty({n, length + 1}, DType::i32, Device::cpu);
  const Rng rng{.seed = seed};
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.write<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.bits(static_cast<std::uint64_t>(i)) % 256);
  }
  return {.x = x, .labels = Tensor::zeros({n}, DType::i32, Device::cpu), .ids = {}};
}

Tensor logits(const LanguageModel& model, const Parameters& p, const Batch& batch) {
  Tape tape(Tape::Options{.gradients = false});
  return model.forward(tape, batch, p, {.training = false}).predictions[0].value.value();
}

TEST_CASE("finite differences of every parameter; each mixture has its own") {
  const LanguageModel model(kSmall, layer());
  Parameters p = model.initial(7, DType::f64);
  const Batch batch = windows(2, 5);
  Tape tape;
  const Pass pass = model.forward(tape, batch, p);
  REQUIRE(pass.mixtures.size() == 2);
  CHECK(pass.mixtures[0].name == "1.mixture.");
  CHECK(pass.mixtures[1].name == "2.mixture.");
  CHECK(!p.find("1.mixture.experts.w1")->value.same_bits(p.find("2.mixture.experts.w1")->value));
  CHECK(pass.predictions[0].value.shape() == Shape{10, 256});
  CHECK(pass.predictions[0].labels.at(0) == batch.x.at(1));
  CHECK(pass.predictions[0].labels.at(9) == batch.x.at(11));
  test::check_differences(p, [&](Tape& t) { return model.losses(t, batch, p).total; });
}

TEST_CASE("a byte moves no logit before it, and all from it on") {
  const LanguageModel model(kSmall, layer());
  const Parameters p = model.initial(3, DType::f64);
  const Batch batch = windows(1, 5);
  const Tensor before = logits(model, p, batch);
  for (std::int64_t place = 0; place < 5; ++place) {
    const Batch other = {.x = batch.x.clone(), .labels = batch.labels, .ids = {}};
    std::int32_t& byte = other.x.write<std::int32_t>()[place];
    byte = (byte + 1) % 256;
    const Tensor after = logits(model, p, other);
    for (std::int64_t t = 0; t < 5; ++t) {
      double most = 0.0;
      for (std::int64_t c = 0; c < kBytes; ++c) {
        most = std::fmax(most, std::abs(after.at(t * kBytes + c) - before.at(t * kBytes + c)));
      }
      CHECK((most < 1e-13) == (t < place));
    }
  }
}

// The same two bytes at another distance: without positions attention could not tell.
TEST_CASE("positions are relative: the order of what came before matters") {
  const LanguageModel model(kSmall, layer());
  const Parameters p = model.initial(3, DType::f64);
  Batch batch = windows(1, 3);
  std::int32_t* const id = batch.x.write<std::int32_t>();
  id[0] = 1;
  id[1] = 2;
  const Tensor one = logits(model, p, batch);
  std::swap(id[0], id[1]);
  CHECK(!logits(model, p, batch).rows(2, 3).same_bits(one.rows(2, 3)));
}

TEST_CASE("byte by byte with a memory: the logits of the whole window") {
  for (const char* router : {"top-k", "softmax", "deepseek-v3"}) {
    CAPTURE(router);
    const LanguageModel model(kSmall, layer(router));
    const Parameters p = model.initial(5, DType::f64);
    const Batch batch = windows(1, 5, 9);
    const Tensor whole = logits(model, p, batch);
    LanguageModel::Memory memory;
    for (std::int64_t t = 0; t < 5; ++t) {
      const Tensor one = model.next(static_cast<std::int32_t>(batch.x.at(t)), p, memory);
      for (std::int64_t c = 0; c < kBytes; ++c) {
        CHECK(one.at(c) == doctest::Approx(whole.at(t * kBytes + c)).epsilon(1e-12));
      }
    }
    CHECK(error_of([&] { model.next(0, p, memory); }) ==
          "[language-model] place 5 of a context of 5. Begin anew with less text.");
  }
}

TEST_CASE("language model: errors") {
  const auto error = [](LanguageModel::Size size) {
    return error_of([&] { const LanguageModel model(size, layer()); });
  };
  CHECK(error({.layers = 1}) == "[language-model] 1 layers. The first is dense: give 2 or more.");
  CHECK(error({.heads = 3}) ==
        "[language-model] width 8 in 3 heads. Rotary positions turn pairs of columns: give a width "
        "that is an even multiple of the heads.");
  CHECK(error({.heads = 8}).starts_with("[language-model] width 8 in 8 heads."));
  const LanguageModel model(kSmall, layer());
  const Parameters p = model.initial(1, DType::f32);
  CHECK(error_of([&] { logits(model, p, windows(1, 6)); }) ==
        "[language-model] x is i32 [1, 7]. It must be windows of text, i32 [B, T + 1], T at most "
        "5.");
  // Choices that look at other tokens are no causal model's.
  CHECK(error_of([&] { const LanguageModel m(kSmall, layer("expert-choice")); }) != "no error");
}

}  // namespace
}  // namespace moegrad
