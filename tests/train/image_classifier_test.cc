#include "train/image_classifier.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/config.h"
#include "train/loop.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

// Images of 16 x 16, bright above or bright below.
Dataset bright_halves(std::int64_t n, std::uint64_t seed) {
  Dataset data{.x = Rng{seed, 0, 0}.normal({n, 256}, DType::f32),
               .labels = Tensor::empty({n}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < n; ++i) {
    data.labels.write<std::int32_t>()[i] = static_cast<std::int32_t>(i % 2);
    for (std::int64_t p = 0; p < 128; ++p) data.x.write<float>()[i * 256 + i % 2 * 128 + p] += 1.0F;
  }
  return data;
}

TrainConfig cnn() {
  TrainConfig config;
  apply_settings(config, {{"task", "vision"},
                          {"expert", "cnn"},
                          {"experts", "2"},
                          {"active", "1"},
                          {"width", "256"},
                          {"hidden", "8"},
                          {"epochs", "3"},
                          {"batch", "32"}});
  return config;
}

}  // namespace

TEST_CASE(
    "image classifier: learns what half of an image is bright, and goes on from its checkpoint") {
  const TemporaryFolder folder;
  const Task task{.name = "vision",
                  .targets = {{.name = "class", .classes = 2}},
                  .train = bright_halves(256, 1),
                  .test = bright_halves(64, 2)};
  const TrainResult whole = train(cnn(), {.out = folder / "whole", .task = &task});
  CHECK(whole.test.accuracy() > 0.9);
  TrainConfig less = cnn();
  less.epochs = 2;
  train(less, {.out = folder / "two", .task = &task});
  TrainConfig more = cnn();
  const TrainResult longer = train(more, {.out = folder / "two", .resume = true, .task = &task});
  CHECK(longer.steps == whole.steps);
}

TEST_CASE("image classifier: heads of two targets, and errors") {
  const std::vector<Target> two = {{.name = "upper", .classes = 3},
                                   {.name = "lower", .classes = 2}};
  const ImageClassifier model(256, two, cnn().layer());
  const Parameters parameters = model.initial(1, DType::f32);
  Tape tape;
  const Batch batch = {.x = bright_halves(4, 3).x,
                       .labels = Tensor::zeros({4, 2}, DType::i32, Device::cpu),
                       .ids = Tensor::zeros({4}, DType::i32, Device::cpu)};
  const Pass pass = model.forward(tape, batch, parameters);
  REQUIRE(pass.predictions.size() == 2);
  CHECK(pass.predictions[0].value.shape() == Shape{4, 3});
  CHECK(pass.predictions[1].value.shape() == Shape{4, 2});
  CHECK(error_of([&] { ImageClassifier(784, two, cnn().layer()); }) ==
        "[image-classifier] width 256 for images of 784 pixels. Give --width 784.");
  TaskShape text{.inputs = 8, .ids = true, .targets = {{.name = "byte", .classes = 256}}};
  CHECK(error_of([&] { make_model(text, cnn()); }) ==
        "[model] the experts are convolutional, and the task 'vision' has no images. Give --expert "
        "network.");
}

}  // namespace moegrad
