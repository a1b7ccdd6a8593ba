#include "train/step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "tensor/kernels.h"
#include "tests/devices.h"
#include "tests/train/training.h"

namespace moegrad {
namespace {

using test::agrees;
using test::has_cpu_bits;
using test::layer;
using test::other_devices;
using test::same;
using test::Training;

}  // namespace

TEST_CASE("step: it tells the numbers of the pass that it made") {
  Training training(layer("switch", "sparse", {{"capacity", "0.5"}, {"capacity-min", "1"}}));
  const Batch batch = Training::batch(1);
  Tape tape(Tape::Options{.rng = {.seed = 3}});
  const Model::Losses l = training.model().losses(tape, batch, training.parameters());
  const LayerOutput& mixture = l.pass.mixtures.front().out;
  const std::vector<double> load = mixture.expert_load().to_vector();
  const double dropped = mixture.dropped().item();
  REQUIRE(dropped > 0.0);

  const StepReport report = training.step(batch);
  CHECK(report.failure.empty());
  CHECK(report.loss == l.task.value().item());
  CHECK(report.auxiliary == mixture.auxiliary.value().item());
  CHECK(report.gradient_norm > 0.0);
  REQUIRE(report.mixtures.size() == 1);
  REQUIRE(report.mixtures[0].losses.size() == mixture.losses.size());
  for (std::size_t i = 0; i < mixture.losses.size(); ++i) {
    CHECK(report.mixtures[0].losses[i].first == mixture.losses[i].name);
    CHECK(report.mixtures[0].losses[i].second == mixture.losses[i].value.value().item());
  }
  REQUIRE(report.mixtures[0].expert_load.size() == 4);
  for (std::size_t e = 0; e < 4; ++e) {
    CHECK(report.mixtures[0].expert_load[e] == load[e] / (12.0 - dropped));
  }
  CHECK(report.mixtures[0].dropped == dropped / 12.0);
  CHECK(training.step(batch, false).mixtures.empty());
}

TEST_CASE("step: the norms of another estimator, the directions of its own") {
  const Classifier sparse(5, 3, layer("top-k", "sparse"));
  const Classifier dense(5, 3, layer("top-k", "ste-dense"));
  // Gradients: what a step of rate 1 takes away.
  const auto gradients = [&](const Model& model, const Model* norms_of, std::int64_t parts) {
    Parameters parameters = sparse.initial(1, DType::f64);
    std::vector<Tensor> change;
    for (const Parameter& p : parameters) change.push_back(p.value.clone());
    SgdOptimiser optimiser(parameters, {.momentum = 0.0, .nesterov = false, .weight_decay = 0.0});
    TrainingStep step(model, parameters, optimiser, {.parts = parts, .norms_of = norms_of});
    Batch batch = Training::batch(1);
    batch.x = batch.x.to(DType::f64);
    CHECK(step(batch, Rng{.seed = 3}, 1.0, false).failure.empty());
    std::size_t i = 0;
    for (const Parameter& p : parameters) {
      kernels(Device::cpu).accumulate(-1.0, p.value, change[i++]);
    }
    return change;
  };
  const auto inner = [](const Tensor& a, const Tensor& b) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.at(i) * b.at(i);
    return sum;
  };
  const auto own = gradients(sparse, nullptr, 1);
  const auto other = gradients(dense, nullptr, 1);
  const auto matched = gradients(sparse, &dense, 1);
  double most = 0.0;
  for (std::size_t i = 0; i < own.size(); ++i) {
    const double norm = std::sqrt(inner(own[i], own[i]));
    const double wanted = std::sqrt(inner(other[i], other[i]));
    if (norm == 0.0) continue;
    CHECK(std::sqrt(inner(matched[i], matched[i])) == doctest::Approx(wanted).epsilon(1e-6));
    CHECK(inner(matched[i], own[i]) == doctest::Approx(wanted * norm).epsilon(1e-6));
    most = std::max(most, std::abs(wanted / norm - 1.0));
  }
  CHECK(most > 0.01);  // the two differ in size
  const auto itself = gradients(sparse, &sparse, 1);
  for (std::size_t i = 0; i < own.size(); ++i) CHECK(itself[i].same_bits(own[i]));
  const auto parts = gradients(sparse, &sparse, 3);
  const auto plain = gradients(sparse, nullptr, 3);
  for (std::size_t i = 0; i < own.size(); ++i) {
    for (std::int64_t j = 0; j < own[i].numel(); ++j) {
      CHECK(parts[i].at(j) == doctest::Approx(plain[i].at(j)).epsilon(1e-6));
    }
  }
}

TEST_CASE("step: one that fails changes nothing, is named, and the next one is made") {
  // Routers and estimators with a state, too.
  for (const LayerConfig& config : {layer("top-k", "sparse"), layer("loss-free", "default-ema")}) {
    Training training(config);
    Training undisturbed(config);
    training.step(Training::batch(1));
    undisturbed.step(Training::batch(1));
    const std::vector<Tensor> before = training.state();

    Batch bad = Training::batch(2);
    bad.x.write_values<float>()[3] = std::numeric_limits<float>::infinity();
    const StepReport report = training.step(bad);
    CHECK_MESSAGE(report.failure.starts_with("the loss is nan: [constant] node 0 holds inf at "
                                             "element 3 of shape [12, 5]."),
                  report.failure);
    CHECK(same(training.state(), before));

    training.step(Training::batch(3));
    undisturbed.step(Training::batch(3));
    CHECK(same(training.state(), undisturbed.state()));
    CHECK(!same(training.state(), before));
  }
}

TEST_CASE("step: a gradient that is not finite under a loss that is") {
  Training training(layer("top-k", "sparse"));
  // Huge inputs that weigh nothing, in front of a steep head.
  Batch batch = Training::batch(1);
  for (std::size_t row = 0; row < 12; ++row) batch.x.write_values<float>()[row * 5] = 1e38F;
  Parameters& p = training.parameters();
  for (float& w : p.find("input.weight")->value.write_values<float>()) w = 0.0F;
  float bias = 0.0F;
  for (float& b : p.find("input.bias")->value.write_values<float>()) b = bias += 1.0F;
  for (float& w : p.find("head.weight")->value.write_values<float>()) w *= 1e5F;
  const std::vector<Tensor> before = training.state();
  const StepReport report = training.step(batch);
  CHECK(std::isfinite(report.loss));
  CHECK(report.failure ==
        fmt::format("the loss is {}, and the gradient of 'input.weight' is not finite.",
                    report.loss));
  CHECK(same(training.state(), before));
}

// Nobody on the host touches what is on the device, and the step is waited for once, but for what
// routers and estimators say that they do on the host.
TEST_CASE("step: on another device the numbers of the CPU, and one wait") {
  const auto compare_on = [](Device device, const LayerConfig& config, bool on_host) {
    CAPTURE(name_of(device));
    CAPTURE(config.router);
    CAPTURE(config.estimator);
    const auto near = [&](double x, double y) {
      return has_cpu_bits(device) ? x == y : std::abs(x - y) <= 1e-5 * (1.0 + std::abs(y));
    };
    Training here(config);
    Training there(config, device);
    for (std::uint64_t i = 0; i < 3; ++i) {
      const bool of_mixture = i != 1;
      const StepReport expected = here.step(Training::batch(i), of_mixture);
      const std::uint64_t waits = waits_for_devices();
      StepReport report;
      try {
        report = there.step(Training::batch(i), of_mixture);
      } catch (const Error& e) {
        FAIL_CHECK(e.what());
        return;
      }
      const std::uint64_t waited = waits_for_devices() - waits;
      CHECK((on_host ? waited > 1 : waited == 1));
      CHECK(near(report.loss, expected.loss));
      CHECK(near(report.auxiliary, expected.auxiliary));
      CHECK(near(report.gradient_norm, expected.gradient_norm));
      REQUIRE(!report.mixtures.empty() == of_mixture);
      if (!of_mixture) continue;
      REQUIRE(report.mixtures[0].losses.size() == expected.mixtures[0].losses.size());
      for (std::size_t l = 0; l < expected.mixtures[0].losses.size(); ++l) {
        CHECK(report.mixtures[0].losses[l].first == expected.mixtures[0].losses[l].first);
        CHECK(near(report.mixtures[0].losses[l].second, expected.mixtures[0].losses[l].second));
      }
      REQUIRE(report.mixtures[0].expert_load.size() == expected.mixtures[0].expert_load.size());
      for (std::size_t e = 0; e < expected.mixtures[0].expert_load.size(); ++e) {
        CHECK(near(report.mixtures[0].expert_load[e], expected.mixtures[0].expert_load[e]));
      }
      CHECK(report.mixtures[0].dropped == expected.mixtures[0].dropped);
    }
    const std::vector<Tensor> want = here.state();
    const std::vector<Tensor> got = there.state();
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(agrees(got[i], want[i], device));
  };
  const auto compare = [&](const LayerConfig& config, bool on_host) {
    for (const Device device : other_devices()) compare_on(device, config, on_host);
  };
  for (const RouterEntry& entry : routers()) {
    LayerConfig config = layer(entry.name, "sparse");
    config.size.active = std::min<std::int64_t>(2, entry.most_active);
    compare(config, entry.traits.on_host[0] != '\0');
  }
  for (const EstimatorEntry& entry : estimators()) {
    const bool on_host = entry.traits.on_host[0] != '\0' && entry.traits.on_host_with.first.empty();
    compare(layer(entry.traits.categorical ? "categorical" : "top-k", entry.name), on_host);
  }
  compare(layer("categorical", "reinforce",
                {{"baseline", "built-in"}, {"samples", "2"}, {"copies", "2"}}),
          true);
}

// The state of a router is written in place: handles to it see the new values.
TEST_CASE("step: the state of the mixture keeps its storage") {
  Training training(layer("loss-free", "sparse"));
  const Tensor bias = training.parameters().find("mixture.router.balance")->value;
  const Tensor before = bias.clone();
  training.step(Training::batch(1));
  CHECK(training.parameters().find("mixture.router.balance")->value.shares_storage(bias));
  CHECK(!bias.same_bits(before));
}

}  // namespace moegrad
