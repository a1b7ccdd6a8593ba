#include <algorithm>
#include <limits>
#include <string>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "tensor/maths.h"
#include "tests/devices.h"
#include "tests/train/training.h"
#include "train/step.h"

namespace moegrad {
namespace {

using test::layer;
using test::other_devices;
using test::same;
using test::Training;

}  // namespace

// Steps of batches of two sizes, at learning rates and with draws of their own; one of them fails,
// and once the parameters move to another place.
void compare_captured(Device device, const LayerConfig& config) {
  CAPTURE(config.router);
  CAPTURE(config.estimator);
  Training launched(config, device);
  Training captured(config, device, true);
  for (std::uint64_t i = 0; i < 9; ++i) {
    CAPTURE(i);
    Batch batch = Training::batch(i, i % 4 == 1 ? 7 : 12);
    if (i == 4) batch.x.write_values<float>()[3] = std::numeric_limits<float>::quiet_NaN();
    if (i == 7) {
      for (Parameter& p : captured.parameters()) p.value = p.value.clone();
    }
    const Rng rng{.seed = 3, .stream = 100 + i};
    const double learning_rate = 1e-2 / static_cast<double>(1 + i);
    const bool of_mixture = i % 3 != 1;
    const auto made_by = [&](Training& training) {
      try {
        return training.step(batch, rng, learning_rate, of_mixture);
      } catch (const Error& e) {  // draws of probabilities that are none
        return StepReport{.failure = e.what()};
      }
    };
    const StepReport want = made_by(launched);
    const StepReport got = made_by(captured);
    CHECK(want.failure.empty() == (i != 4));
    CHECK(got.failure == want.failure);
    if (got.failure != want.failure) return;
    if (i == 4) continue;
    CHECK(got.loss == want.loss);
    CHECK(got.auxiliary == want.auxiliary);
    CHECK(got.gradient_norm == want.gradient_norm);
    REQUIRE(!got.mixtures.empty() == of_mixture);
    if (!of_mixture) continue;
    CHECK(got.mixtures[0].losses == want.mixtures[0].losses);
    CHECK(got.mixtures[0].expert_load == want.mixtures[0].expert_load);
    CHECK(got.mixtures[0].dropped == want.mixtures[0].dropped);
  }
  CHECK(same(captured.state(), launched.state()));
}

TEST_CASE("step: captured, to the bits of one that is launched") {
  for (const Device device : other_devices()) {
    if (device != Device::cuda) continue;  // others record no graphs
    for (const RouterEntry& entry : routers()) {
      LayerConfig config = layer(entry.name, "sparse");
      config.size.active = std::min<std::int64_t>(2, entry.most_active);
      if (entry.traits.on_host[0] == '\0') compare_captured(device, config);
    }
    for (const EstimatorEntry& entry : estimators()) {
      if (entry.traits.on_host[0] != '\0' && entry.traits.on_host_with.first.empty()) continue;
      compare_captured(device,
                       layer(entry.traits.categorical ? "categorical" : "top-k", entry.name));
    }
    compare_captured(device, layer("loss-free", "default-ema"));
    LayerConfig config = layer("moesart", "expert-group");
    config.size.active = 2;
    compare_captured(device, config);
  }
}

TEST_CASE("step: captured, what the host has changed since the last one counts") {
  for (const Device device : other_devices()) {
    if (device != Device::cuda) continue;
    Training launched(layer("top-k", "sparse"), device);
    Training captured(layer("top-k", "sparse"), device, true);
    Maths maths = Maths::exact;
    const auto steps = [&](int n) {
      for (int i = 0; i < n; ++i) {
        for (Training* training : {&launched, &captured}) {
          const MathsScope scope(maths);
          training->step(Training::batch(static_cast<std::uint64_t>(i)));
        }
      }
      CHECK(same(captured.state(), launched.state()));
    };
    const auto change = [&](const auto& how) {
      for (Training* training : {&launched, &captured}) how(training->parameters());
      steps(3);
    };
    steps(3);
    change([](Parameters& p) { p.find("input.weight")->rate = 0.25; });
    change([](Parameters& p) { p.find("head.weight")->trained = false; });
    change([](Parameters& p) { p.find("input.weight")->decays = false; });
    maths = Maths::bf16;
    steps(3);
  }
}

// The same batches for both, launched and captured: the same errors, the same state.
struct SideBySide {
  explicit SideBySide(const LayerConfig& config, Device device)
      : launched(config, device), captured(config, device, true) {}
  void step(const Batch& batch, bool refused = false) {
    std::string said[2];
    for (Training* training : {&launched, &captured}) {
      try {
        training->step(batch);
      } catch (const Error& e) {
        said[training == &captured] = e.what();
      }
    }
    CHECK(said[0].empty() != refused);
    CHECK(said[0] == said[1]);
    CHECK(same(captured.state(), launched.state()));
  }
  Training launched, captured;
};

TEST_CASE("step: captured, a batch of another kind is not taken for one of as many rows") {
  for (const Device device : other_devices()) {
    if (device != Device::cuda) continue;
    SideBySide both(layer("top-k", "sparse"), device);
    const Batch batch = Training::batch(1);
    for (int i = 0; i < 3; ++i) both.step(batch);
    both.step({batch.x.reshape({60, 1}).rows(0, 48).reshape({12, 4}), batch.labels, batch.ids},
              true);
    both.step({batch.x.to(DType::f64), batch.labels, batch.ids}, true);
    both.step({batch.x, batch.labels.rows(0, 6), batch.ids}, true);
    for (int i = 0; i < 3; ++i) both.step({batch.x, batch.labels, {}});
    both.step(batch);
  }
}

TEST_CASE("step: captured, an index out of range is told once and changes nothing, in any call") {
  for (const Device device : other_devices()) {
    if (device != Device::cuda) continue;
    for (const int first : {0, 1, 2}) {  // of the calls: launched, recorded, replayed
      CAPTURE(first);
      SideBySide both(layer("hash", "sparse"), device);
      const Batch batch = Training::batch(1);
      for (int i = 0; i < first; ++i) both.step(batch);
      Batch bad = Training::batch(1);
      bad.labels.write<std::int32_t>()[2] = 7;
      both.step(bad, true);
      both.step(batch);
      bad = Training::batch(1);
      bad.ids.write<std::int32_t>()[2] = -3;
      both.step(bad, true);
      both.step(batch);
    }
  }
}

}  // namespace moegrad
