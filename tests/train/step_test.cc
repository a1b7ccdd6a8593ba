#include "train/step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "tensor/kernels.h"
#include "tensor/maths.h"
#include "tests/devices.h"
#include "train/classifier.h"

namespace moegrad {
namespace {

using test::agrees;
using test::has_cpu_bits;
using test::other_devices;

LayerConfig layer(const std::string& router, const std::string& estimator,
                  std::map<std::string, std::string> options = {}) {
  LayerConfig config;
  config.size = {.model = 8, .hidden = 6, .output = 8, .experts = 4, .active = 1};
  config.router = router;
  config.estimator = estimator;
  config.options = std::move(options);
  return config;
}

// A model in training on a device, whose batches are on the host.
class Training {
 public:
  explicit Training(const LayerConfig& config, Device device = Device::cpu, bool captures = false,
                    std::int64_t parts = 1)
      : model_(5, 3, config), parameters_(model_.initial(1, DType::f32)) {
    for (Parameter& p : parameters_) p.value = p.value.to(device);
    optimiser_.emplace(parameters_, AdamWOptimiser::Config{});
    step_.emplace(model_, parameters_, *optimiser_,
                  StepOptions{.max_norm = 1.0, .parts = parts, .captures = captures});
  }

  static Batch batch(std::uint64_t seed, std::int32_t rows = 12) {
    Rng rng{.seed = seed};
    Batch batch{.x = rng.normal({rows, 5}, DType::f32),
                .labels = Tensor::empty({rows}, DType::i32, Device::cpu),
                .ids = Tensor::empty({rows}, DType::i32, Device::cpu)};
    for (std::int32_t i = 0; i < rows; ++i) {
      batch.labels.write<std::int32_t>()[i] = i % 3;
      batch.ids.write<std::int32_t>()[i] = i;
    }
    return batch;
  }
  StepReport step(const Batch& batch, bool of_mixture = true) {
    return step(batch, Rng{.seed = 3}, 1e-2, of_mixture);
  }
  StepReport step(const Batch& batch, const Rng& rng, double learning_rate, bool of_mixture) {
    return (*step_)(batch, rng, learning_rate, of_mixture);
  }

  std::vector<Tensor> state() const {
    std::vector<Tensor> all;
    for (const Parameter& p : parameters_) all.push_back(p.value.to(Device::cpu).clone());
    for (const auto& [name, tensor] : optimiser_->state()) {
      all.push_back(tensor.to(Device::cpu).clone());
    }
    all.push_back(Tensor::scalar(static_cast<double>(optimiser_->steps())));
    return all;
  }
  const Classifier& model() const { return model_; }
  Parameters& parameters() { return parameters_; }

 private:
  Classifier model_;
  Parameters parameters_;
  std::optional<AdamWOptimiser> optimiser_;
  std::optional<TrainingStep> step_;
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!a[i].same_bits(b[i])) return false;
  }
  return a.size() == b.size();
}

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

// The state of a router is written in place: handles to it see the new values.
TEST_CASE("step: the state of the mixture keeps its storage") {
  Training training(layer("loss-free", "sparse"));
  const Tensor bias = training.parameters().find("mixture.router.balance")->value;
  const Tensor before = bias.clone();
  training.step(Training::batch(1));
  CHECK(training.parameters().find("mixture.router.balance")->value.shares_storage(bias));
  CHECK(!bias.same_bits(before));
}

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
