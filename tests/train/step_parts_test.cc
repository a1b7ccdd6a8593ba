#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "tests/devices.h"
#include "tests/train/training.h"
#include "train/step.h"

namespace moegrad {
namespace {

using test::layer;
using test::same;
using test::Training;

}  // namespace

// Without a balance loss or a capacity nothing of a batch depends on the rows beside it.
TEST_CASE("a batch in parts: the step of the whole batch, within rounding") {
  const Batch batch = Training::batch(1, 13);
  const auto after = [&](std::int64_t parts, Device device, bool captures) {
    Training training(layer("top-k", "ste-dense"), device, captures, parts);
    const StepReport report = training.step(batch);
    CHECK(report.failure.empty());
    return std::pair(report, training.state());
  };
  const auto [want, state] = after(1, Device::cpu, false);
  for (const std::int64_t parts : {2, 5, 13, 100}) {
    for (const Device device : test::devices()) {
      CAPTURE(parts);
      CAPTURE(name_of(device));
      const auto [got, there] = after(parts, device, false);
      CHECK(got.loss == doctest::Approx(want.loss).epsilon(1e-5));
      CHECK(got.gradient_norm == doctest::Approx(want.gradient_norm).epsilon(1e-4));
      // The moments, which are the gradient and its square within factors.
      for (std::size_t i = state.size() / 3; i < state.size(); ++i) {
        for (std::int64_t j = 0; j < state[i].numel(); ++j) {
          CHECK(there[i].at(j) == doctest::Approx(state[i].at(j)).epsilon(1e-4).scale(1e-2));
        }
      }
      if (device != Device::cuda) continue;
      const auto [captured, same] = after(parts, device, true);
      for (std::size_t i = 0; i < there.size(); ++i) CHECK(same[i].same_bits(there[i]));
    }
  }
}

// The mean over the rows that are known is not the mean of those of the parts. `classes`: those of a
// class, too, which are counted on the host: such a step is not captured.
void compare_parts(bool classes) {
  const std::vector<Target> targets = {
      {.name = "a", .kind = Target::Kind::number, .partial = true},
      {.name = "b", .kind = Target::Kind::classes, .classes = 3, .partial = classes},
      {.name = "c", .kind = Target::Kind::binary}};
  const Classifier model(5, targets, layer("top-k", "sparse"));
  Batch batch = Training::batch(1, 13);
  batch.x = batch.x.to(DType::f64);
  batch.labels = Tensor::empty({13, 3}, DType::i32, Device::cpu);
  for (std::int32_t i = 0; i < 13; ++i) {
    std::int32_t* const label = batch.labels.write<std::int32_t>() + 3 * i;
    label[0] = i < 4 || i == 9 ? i : -1;  // some parts have none
    label[1] = classes && i % 5 == 0 ? -1 : i % 3;
    label[2] = i % 2;
  }
  const auto after = [&](std::int64_t parts, Device device) {
    Parameters p = model.initial(1, DType::f64);
    for (Parameter& each : p) each.value = each.value.to(device);
    SgdOptimiser optimiser(p, {});
    TrainingStep step(model, p, optimiser,
                      {.parts = parts, .captures = device == Device::cuda && !classes});
    StepReport report;
    for (int i = 0; i < 3; ++i) report = step(batch, Rng{.seed = 3}, 1e-2, true);
    return std::pair(report, p.find("mixture.experts.w1")->value.to(Device::cpu));
  };
  const auto [want, whole] = after(1, Device::cpu);
  for (const std::int64_t parts : {2, 3, 13}) {
    for (const Device device : test::devices()) {
      CAPTURE(parts);
      CAPTURE(name_of(device));
      const auto [got, there] = after(parts, device);
      CHECK(got.failure.empty());
      CHECK(got.loss == doctest::Approx(want.loss).epsilon(1e-12));
      CHECK(got.objective == doctest::Approx(want.objective).epsilon(1e-12));
      CHECK(got.gradient_norm == doctest::Approx(want.gradient_norm).epsilon(1e-12));
      for (std::int64_t j = 0; j < whole.numel(); ++j) {
        CHECK(there.at(j) == doctest::Approx(whole.at(j)).epsilon(1e-12));
      }
    }
  }
}
TEST_CASE("a batch in parts: targets that are known of some rows only") {
  compare_parts(false);
  compare_parts(true);
}

TEST_CASE("the state of a mixture goes on from part to part, and is not lost with a step") {
  const auto bias = [](Training& training) {
    return training.parameters().find("mixture.router.balance")->value;
  };
  const Batch batch = Training::batch(1, 12);
  Training parts(layer("loss-free", "sparse"), Device::cpu, false, 3);
  const Tensor before = bias(parts);
  parts.step(batch);
  double most = 0.0;
  for (std::int64_t e = 0; e < 4; ++e) most = std::fmax(most, std::abs(bias(parts).at(e)));
  CHECK(most > 1.5e-3);  // a part moves each bias by 0.001
  CHECK(bias(parts).shares_storage(before));

  Batch bad = Training::batch(1, 12);
  bad.x.write<float>()[5 * 11] = std::numeric_limits<float>::infinity();  // in the last part
  const std::vector<Tensor> state = parts.state();
  CHECK(!parts.step(bad).failure.empty());
  const std::vector<Tensor> now = parts.state();
  for (std::size_t i = 0; i < state.size(); ++i) CHECK(now[i].same_bits(state[i]));
}

}  // namespace moegrad
