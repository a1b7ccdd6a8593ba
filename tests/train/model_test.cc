#include "train/model.h"

#include <cmath>
#include <string>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/classifier.h"
#include "train/config.h"
#include "train/image_classifier.h"
#include "train/language_model.h"
#include "train/recommender.h"
#include "train/student.h"

namespace moegrad {
namespace {

using test::error_of;
using Kind = Target::Kind;

double loss(const Target& target, const Tensor& value, std::initializer_list<std::int32_t> labels) {
  Tape tape;
  return loss_of(target,
                 {tape.constant(value),
                  Tensor::of<std::int32_t>({static_cast<std::int64_t>(labels.size())}, labels)})
      .value()
      .item();
}

TEST_CASE("the loss of each kind of target, by hand; what is not known counts nowhere") {
  const Target rating{.name = "rating", .kind = Kind::number, .partial = true};
  const Tensor values = Tensor::of<double>({3}, {1.0, 2.5, 7.0});
  CHECK(loss(rating, values, {3, 2, -1}) == doctest::Approx((4.0 + 0.25) / 2));
  CHECK(loss(rating, values, {-1, -1, -1}) == 0.0);
  CHECK(loss({.name = "whole", .kind = Kind::number}, values, {3, 2, -1}) ==
        doctest::Approx((4.0 + 0.25 + 64.0) / 3));
  const double softplus = std::log1p(std::exp(2.5));
  CHECK(loss({.name = "b", .kind = Kind::binary, .partial = true}, values, {-1, 1, -1}) ==
        doctest::Approx(softplus - 2.5));
  const Tensor logits = Tensor::of<double>({2, 2}, {0.0, 0.0, 5.0, 1.0});
  CHECK(loss({.name = "c", .classes = 2, .partial = true}, logits, {1, -1}) ==
        doctest::Approx(std::log(2.0)));
}

TEST_CASE("an estimator that weighs losses takes one mixture and one class") {
  LayerConfig layer;
  layer.size = {.model = 4, .hidden = 3, .output = 4, .experts = 3, .active = 1};
  layer.router = "categorical";
  layer.estimator = "reinforce";
  const std::vector<Target> two = {{.name = "a", .classes = 2}, {.name = "b", .classes = 2}};
  const Classifier model(4, two, layer);
  const Parameters p = model.initial(1, DType::f64);
  const Batch batch{.x = Rng{.seed = 1}.normal({3, 4}, DType::f64),
                    .labels = Tensor::zeros({3, 2}, DType::i32, Device::cpu),
                    .ids = {}};
  Tape tape;
  CHECK(error_of([&] { model.losses(tape, batch, p); }) ==
        "[train] the estimator reinforce weighs the loss of each row: it takes a model of one "
        "mixture layer and one class to tell. This one has 1 layers and 2 targets. Use another "
        "estimator.");
  CHECK(error_of([&] { Classifier(4, std::vector<Target>(), layer); }) ==
        "[model] it has no target. Give one at least.");
}

TEST_CASE("the model that a task asks for") {
  Task task = make_synthetic(DType::f32, 1, {.train_size = 2, .test_size = 2});
  TrainConfig config;
  config.width = 16;
  CHECK(dynamic_cast<Classifier*>(make_model(task.shape(), config).get()) != nullptr);
  task.train.x = Tensor::zeros({2, 256}, DType::f32, Device::cpu);
  config.width = 256;
  config.expert = "cnn";
  CHECK(dynamic_cast<ImageClassifier*>(make_model(task.shape(), config).get()) != nullptr);
  config.width = 16;
  config.expert = "network";
  task.train.x = Tensor::zeros({2, 9}, DType::i32, Device::cpu);
  const auto model = make_model(task.shape(), config);
  const auto* const language = dynamic_cast<LanguageModel*>(model.get());
  REQUIRE(language != nullptr);
  CHECK(language->size().context == 8);
  CHECK(language->size().layers == 3);
  task.vocabulary = 20;
  CHECK(dynamic_cast<Student*>(make_model(task.shape(), config).get()) != nullptr);
  task.vocabulary = 0;
  task.fields = {{.name = "user", .values = 5}};
  CHECK(dynamic_cast<Recommender*>(make_model(task.shape(), config).get()) != nullptr);
}

}  // namespace
}  // namespace moegrad
