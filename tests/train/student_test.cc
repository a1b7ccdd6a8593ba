#include "train/student.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;

constexpr std::int64_t kClasses = 3;
constexpr std::int64_t kWidth = 8;

LayerConfig small_mixture(const std::string& router = "top-k") {
  LayerConfig config;
  config.size = {kWidth, 6, kWidth, 4, 2};
  config.activation = Activation::gelu;
  config.router = router;
  if (router == "hash") config.size.active = 1;
  return config;
}

Student student(const Student::Guidance& guidance = {}, const std::string& router = "top-k") {
  return {{.pieces = 20, .places = 6, .heads = 2, .layers = 2},
          guidance,
          {{.name = "mood", .classes = kClasses}},
          small_mixture(router)};
}

Batch batch_of(const std::vector<std::int32_t>& ids, std::int64_t texts, Tensor guide = {}) {
  return {
      .x = Tensor::of({texts, std::ssize(ids) / texts}, ids),
      .labels = Tensor::of({texts}, std::vector<std::int32_t>(static_cast<std::size_t>(texts), 1)),
      .ids = Tensor::zeros({texts}, DType::i32, Device::cpu),
      .guide = std::move(guide)};
}

const std::vector<std::int32_t> kTexts = {2, 7, 3, 0, 0, 0, 2, 9, 9, 11, 4, 3, 2, 3, 0, 0, 0, 0};

}  // namespace

TEST_CASE("student: what it tells of a text does not depend on the others") {
  const Student s = student();
  const Parameters parameters = s.initial(1, DType::f64);
  const auto logits = [&](const Batch& batch) {
    Tape tape;
    return s.forward(tape, batch, parameters, {.training = false}).predictions[0].value.value();
  };
  const Tensor all = logits(batch_of(kTexts, 3));
  REQUIRE(all.shape() == Shape{3, kClasses});
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::vector<std::int32_t> one(kTexts.begin() + i * 6, kTexts.begin() + i * 6 + 6);
    const Tensor alone = logits(batch_of(one, 1));
    for (std::int64_t c = 0; c < kClasses; ++c) {
      CHECK(all.at(i * kClasses + c) == doctest::Approx(alone.at(c)).epsilon(1e-12));
    }
  }
}

TEST_CASE("student: padding is no token of its mixtures") {
  const Student s = student();
  const Parameters parameters = s.initial(1, DType::f32);
  Tape tape;
  const Pass pass = s.forward(tape, batch_of(kTexts, 3), parameters);
  REQUIRE(pass.mixtures.size() == 2);
  for (const MixturePass& mixture : pass.mixtures) {
    double slots = 0.0;
    for (const double load : mixture.out.expert_load().to_vector()) slots += load;
    CHECK(slots == 2.0 * (3 + 6 + 2));  // k of each token
    CHECK(mixture.sequence == 6);
    const std::vector<std::int32_t> ids(mixture.ids.values<std::int32_t>().begin(),
                                        mixture.ids.values<std::int32_t>().end());
    CHECK(ids == kTexts);
  }
}

TEST_CASE("student: routers of all kinds train beside padding") {
  for (const char* router : {"softmax", "soft-moe", "expert-choice", "hash", "moesart"}) {
    CAPTURE(router);
    const Student s = student({}, router);
    const Parameters parameters = s.initial(1, DType::f32);
    Tape tape;
    const Model::Losses l = s.losses(tape, batch_of(kTexts, 3), parameters);
    const Gradients g = tape.backward(l.total);
    CHECK(std::isfinite(l.total.value().at(0)));
    double size = 0.0;
    for (const double x : g[*std::find_if(parameters.begin(), parameters.end(), [](auto& p) {
                            return p.name == "0.mixture.experts.w1";
                          })].to_vector()) {
      size += x * x;
    }
    CHECK(size > 0.0);
  }
}

TEST_CASE("student: the loss of a guide, by plain loops") {
  const Student::Guidance guidance{.kl = 0.5, .features = 2.0, .temperature = 3.0};
  const Student s = student(guidance);
  const Parameters parameters = s.initial(1, DType::f64);
  const Tensor guide = Rng{9, 0, 0}.normal({3, kClasses + kWidth}, DType::f64);
  Tape tape;
  const Pass pass = s.forward(tape, batch_of(kTexts, 3, guide), parameters);
  const Tensor logits = pass.predictions[0].value.value();
  const auto chances = [](const Tensor& x, std::int64_t row, std::int64_t columns) {
    std::vector<double> p;
    double total = 0.0;
    for (std::int64_t c = 0; c < kClasses; ++c) {
      p.push_back(std::exp(x.at(row * columns + c) / 3.0));
      total += p.back();
    }
    for (double& v : p) v /= total;
    return p;
  };
  double kl = 0.0;
  for (std::int64_t i = 0; i < 3; ++i) {
    const auto teacher = chances(guide, i, kClasses + kWidth);
    const auto own = chances(logits, i, kClasses);
    for (std::size_t c = 0; c < kClasses; ++c)
      kl += teacher[c] * std::log(teacher[c] / own[c]) / 3.0;
  }
  // Without features it is the first term alone, and what they add is seen apart.
  const Student no_features = student({.kl = 0.5, .features = 0.0, .temperature = 3.0});
  const Pass other = no_features.forward(tape, batch_of(kTexts, 3, guide), parameters);
  CHECK(other.other.value().at(0) == doctest::Approx(0.5 * 9.0 * kl).epsilon(1e-10));
  const double features = pass.other.value().at(0) - other.other.value().at(0);
  // |e - g|^2 = 1 - 2 e g + |g|^2, and e is found by linear heads that are unit columns.
  double want = 0.0;
  Parameters unit = s.initial(1, DType::f64);
  Tensor embedding = Tensor::zeros({3, kWidth}, DType::f64, Device::cpu);
  for (std::int64_t d = 0; d < kWidth; ++d) {
    const Tensor column = Tensor::zeros({kWidth, kClasses}, DType::f64, Device::cpu);
    column.write<double>()[d * kClasses] = 1.0;
    unit.find("head.weight")->value = column;
    Tape t;
    const Tensor told =
        s.forward(t, batch_of(kTexts, 3), unit, {.training = false}).predictions[0].value.value();
    for (std::int64_t i = 0; i < 3; ++i) {
      const double e = told.at(i * kClasses);
      const double g = guide.at(i * (kClasses + kWidth) + kClasses + d);
      want += 2.0 * (e - g) * (e - g) / 3.0;
    }
  }
  CHECK(features == doctest::Approx(want).epsilon(1e-10));
  // Without a guide, and at inference, there is none.
  CHECK(!s.forward(tape, batch_of(kTexts, 3), parameters).other.defined());
  CHECK(!s.forward(tape, batch_of(kTexts, 3, guide), parameters, {.training = false})
             .other.defined());
}

TEST_CASE("student: the embeddings of pieces stay, all else is trained") {
  const Student s = student();
  Parameters parameters = s.initial(1, DType::f64);
  Tape tape;
  const Tensor guide = Rng{9, 0, 0}.normal({3, kClasses + kWidth}, DType::f64);
  const Gradients g = tape.backward(s.losses(tape, batch_of(kTexts, 3, guide), parameters).total);
  for (const Parameter& p : parameters) {
    CAPTURE(p.name);
    CHECK(p.trained == (p.name != "embedding.piece"));
    CHECK(g.find(p).defined() == p.trained);
  }
}

TEST_CASE("errors of a student") {
  CHECK(error_of([] {
          Student({.pieces = 20, .places = 6, .heads = 2, .layers = 2}, {},
                  {{.name = "a", .kind = Target::Kind::number}}, small_mixture());
        }) == "[student] 1 targets. It tells one, of classes.");
  const Student s = student();
  const Parameters parameters = s.initial(1, DType::f32);
  Tape tape;
  CHECK(error_of([&] {
          s.forward(tape, batch_of(kTexts, 3, Tensor::zeros({3, 4}, DType::f32, Device::cpu)),
                    parameters);
        }) == "[student] a guide [3, 4] for 3 classes and width 8. It must have 11 columns.");
}

}  // namespace moegrad
