// A model trained on data of one's own, made in the program: points inside and outside of a ring.
#include <cmath>
#include <filesystem>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

Dataset ring(std::int64_t rows, Rng rng) {
  Dataset data{.x = rng.uniform({rows, 2}, DType::f32, -1.0, 1.0),
               .labels = Tensor::empty({rows}, DType::i32, Device::cpu)};
  for (std::int64_t r = 0; r < rows; ++r) {
    const double radius = std::hypot(data.x.at(2 * r), data.x.at(2 * r + 1));
    data.labels.write<std::int32_t>()[r] = radius > 0.5 && radius < 0.9 ? 1 : 0;
  }
  return data;
}

}  // namespace

int main() {
  Task task;
  task.name = "ring";
  task.targets = {{.name = "where", .classes = 2, .names = {"outside", "inside"}}};
  task.train = ring(4096, {.seed = 1});
  task.test = ring(1024, {.seed = 2});

  TrainConfig config;
  config.task = task.name;
  config.width = 16;
  config.hidden = 32;
  config.epochs = 10;
  config.lr = 1e-2;

  const std::filesystem::path out = std::filesystem::temp_directory_path() / "moegrad-ring";
  const TrainResult result = train(config, {.out = out, .force = true, .task = &task});
  fmt::print("trained: {}\n", text_of(result.test));

  const StoredModel stored = load_model(checkpoint_of(out));
  const Tensor x = Tensor::of<float>({2, 2}, {0.0F, 0.7F, 0.1F, 0.1F});
  const Tensor chances = probabilities(*stored.model, stored.parameters, x);
  const auto& names = stored.task.targets.front().names;
  for (std::int64_t r = 0; r < 2; ++r) {
    const bool inside = chances.at(2 * r + 1) > 0.5;
    fmt::print("({:.1f}, {:.1f}) is {}\n", x.at(2 * r), x.at(2 * r + 1), names[inside ? 1 : 0]);
  }
  std::filesystem::remove_all(out);
  return result.test.accuracy() > 0.9 && chances.at(1) > 0.5 && chances.at(2) > 0.5 ? 0 : 1;
}
