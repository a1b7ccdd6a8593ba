// Training learns what it should.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "ops/ops.h"
#include "tests/temporary_files.h"
#include "train/loop.h"
#include "train/modules.h"
#include "train/optimiser.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

// The accuracy of a linear classifier, trained by the same optimiser for as many steps.
double linear_accuracy(const Task& task, const TrainConfig& config) {
  const Linear linear{task.train.x.size(1), task.targets[0].classes};
  Parameters p;
  Rng rng{1, 0, 0};
  linear.declare("", p, rng);
  for (Parameter& parameter : p) parameter.value = parameter.value.to(task.train.x.dtype());
  AdamWOptimiser optimiser(p, {});
  for (std::int64_t epoch = 0; epoch < config.epochs; ++epoch) {
    const Batches batches(task.train, config.batch,
                          epoch_rng(1, static_cast<std::uint64_t>(epoch)));
    for (std::int64_t i = 0; i < batches.size(); ++i) {
      const Batch batch = batches.get(i);
      Tape tape;
      const Var logits = linear(tape.constant(batch.x), bind(tape, p, ""));
      optimiser.step(p, tape.backward(cross_entropy(logits, batch.labels)), 1e-2);
    }
  }
  Tape tape;
  const Tensor logits = linear(tape.constant(task.test.x), bind(tape, p, "")).value();
  const std::int64_t n = logits.size(0);
  std::int64_t right = 0;
  for (std::int64_t r = 0; r < n; ++r) {
    std::int64_t best = 0;
    for (std::int64_t c = 1; c < logits.size(1); ++c) {
      if (logits.at(r * logits.size(1) + c) > logits.at(r * logits.size(1) + best)) best = c;
    }
    right += best == task.test.labels.values<std::int32_t>()[static_cast<std::size_t>(r)] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(n);
}

TEST_CASE("loop: each mixture learns what no linear model can") {
  const TemporaryFolder folder;
  TrainConfig config;
  config.task = "synthetic";
  config.epochs = 6;
  const Task task = make_synthetic(DType::f32, 1);
  const double linear = linear_accuracy(task, config);
  MESSAGE("linear " << linear);
  for (const auto& [router, estimator] : {std::pair("top-k", "sparse"),
                                          {"top-k", "expert-group"},
                                          {"moesart", "sparse"},
                                          {"softmax", "sparse"}}) {
    config.router = router;
    config.estimator = estimator;
    const fs::path out = folder / (std::string(router) + estimator);
    const double accuracy = train(config, {.out = out, .task = &task}).test.accuracy();
    MESSAGE(fmt::format("{} {} {}", router, estimator, accuracy));
    CHECK(accuracy > linear + 0.2);
  }
}

TEST_CASE("loop: Fashion-MNIST, one pass, above 0.83") {
  const fs::path data = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(data / "fashion-mnist")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const TemporaryFolder folder;
  TrainConfig config;
  config.task = "vision";
  config.data = data.string();
  config.epochs = 1;
  CHECK(train(config, {.out = folder / "run"}).test.accuracy() > 0.83);
}

}  // namespace
}  // namespace moegrad
