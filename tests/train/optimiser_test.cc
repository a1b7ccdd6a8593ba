#include "train/optimiser.h"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tests/devices.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;

// Gradients c_i of the parameters, by the loss sum c_i p_i.
Gradients gradients_of(const Parameters& parameters, const std::vector<std::vector<double>>& c) {
  static Tape tape;
  tape.clear();
  Var loss = tape.constant(Tensor::zeros({}, DType::f64, parameters.device()));
  std::size_t i = 0;
  for (const Parameter& p : parameters) {
    const Tensor slope = Tensor::of<double>(p.value.shape(), c[i++]);
    loss = loss + sum(tape.parameter(p) * tape.constant(slope.to(p.value.device())));
  }
  return tape.backward(loss);
}

// What brings the norm of gradients c to half of it.
double half_norm(const std::vector<std::vector<double>>& c) {
  double squares = 0.0;
  for (const auto& of_parameter : c) {
    for (const double g : of_parameter) squares += g * g;
  }
  return 0.5 * std::sqrt(squares);
}

// The second learns at a rate of its own. Names say nothing.
Parameters two(double rate = 1.0) {
  Parameters p;
  p.add("layer.weight", Tensor::of<double>({3}, {1.0, -2.0, 0.5})).decays = true;
  p.add("layer.router.weight", Tensor::of<double>({2}, {0.25, 4.0})).rate = rate;
  return p;
}

const std::vector<std::vector<std::vector<double>>> kSlopes = {{{0.5, -1.0, 2.0}, {3.0, -0.25}},
                                                               {{-0.5, 0.75, 1.0}, {0.0, 2.0}},
                                                               {{1.5, 0.1, -3.0}, {1.0, 1.0}}};

TEST_CASE("optimiser: sgd with momentum, nesterov and decay against a plain loop") {
  for (const bool nesterov : {false, true}) {
    Parameters p = two(0.5);
    SgdOptimiser optimiser(p, {.momentum = 0.9, .nesterov = nesterov, .weight_decay = 0.1});
    std::vector<double> value = {1.0, -2.0, 0.5, 0.25, 4.0};
    std::vector<double> u(5, 0.0);
    for (const auto& slopes : kSlopes) {
      optimiser.step(p, gradients_of(p, slopes), 0.2, half_norm(slopes));
      for (std::size_t i = 0; i < 5; ++i) {
        const bool router = i >= 3;  // it does not decay, and learns at half the rate
        const double g =
            0.5 * (router ? slopes[1][i - 3] : slopes[0][i]) + (router ? 0.0 : 0.1 * value[i]);
        u[i] = 0.9 * u[i] + g;
        value[i] -= (router ? 0.1 : 0.2) * (nesterov ? g + 0.9 * u[i] : u[i]);
      }
    }
    CHECK(optimiser.steps() == 3);
    for (std::int64_t i = 0; i < 5; ++i) {
      const Parameter& of = *p.find(i < 3 ? "layer.weight" : "layer.router.weight");
      CHECK(of.value.at(i < 3 ? i : i - 3) ==
            doctest::Approx(value[static_cast<std::size_t>(i)]).epsilon(1e-12));
    }
  }
}

TEST_CASE("optimiser: adamw against a plain loop") {
  Parameters p = two(2.0);
  AdamWOptimiser optimiser(p, {.weight_decay = 0.1});
  std::vector<double> value = {1.0, -2.0, 0.5, 0.25, 4.0};
  std::vector<double> m(5, 0.0);
  std::vector<double> v(5, 0.0);
  int t = 0;
  for (const auto& slopes : kSlopes) {
    ++t;
    optimiser.step(p, gradients_of(p, slopes), 0.01, half_norm(slopes));
    for (std::size_t i = 0; i < 5; ++i) {
      const bool router = i >= 3;
      const double g = 0.5 * (router ? slopes[1][i - 3] : slopes[0][i]);
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.999 * v[i] + 0.001 * g * g;
      const double step =
          m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
      value[i] -= (router ? 0.02 : 0.01) * (step + (router ? 0.0 : 0.1 * value[i]));
    }
  }
  for (std::int64_t i = 0; i < 5; ++i) {
    const Parameter& of = *p.find(i < 3 ? "layer.weight" : "layer.router.weight");
    CHECK(of.value.at(i < 3 ? i : i - 3) ==
          doctest::Approx(value[static_cast<std::size_t>(i)]).epsilon(1e-12));
  }
}

TEST_CASE("optimiser: moments that began later than others are corrected by their own steps") {
  for (const Device device : test::devices()) {
    const auto trained = [&](bool together) {
      Parameters p = two();
      for (Parameter& each : p) each.value = each.value.to(device);
      AdamWOptimiser optimiser(p, {});
      if (!together) optimiser.set_steps(100, {{"layer.router.weight", 0}});
      for (const auto& slopes : kSlopes) optimiser.step(p, gradients_of(p, slopes), 0.01);
      CHECK(optimiser.steps() == (together ? 3 : 103));
      using Steps = std::map<std::string, std::int64_t>;
      CHECK(optimiser.fewer_steps() == (together ? Steps{} : Steps{{"layer.router.weight", 3}}));
      return std::pair(p.find("layer.weight")->value.to(Device::cpu),
                       p.find("layer.router.weight")->value.to(Device::cpu));
    };
    const auto [first, later] = trained(false);
    const auto [weight, router] = trained(true);
    CHECK(later.same_bits(router));
    CHECK(!first.same_bits(weight));
  }
}

TEST_CASE("optimiser: the first step of adamw is the sign of the gradient") {
  Parameters p;
  p.add("bias", Tensor::of<double>({3}, {0.0, 0.0, 0.0}));
  AdamWOptimiser optimiser(p, {});
  optimiser.step(p, gradients_of(p, {{1e-3, -50.0, 0.0}}), 0.1);
  CHECK(p.find("bias")->value.at(0) == doctest::Approx(-0.1).epsilon(1e-4));
  CHECK(p.find("bias")->value.at(1) == doctest::Approx(0.1).epsilon(1e-4));
  CHECK(p.find("bias")->value.at(2) == 0.0);
}

TEST_CASE("optimiser: what is not trained stays, and its state is empty") {
  Parameters p;
  p.add("w", Tensor::of<double>({2}, {1.0, 2.0}));
  p.add("mean", Tensor::of<double>({2}, {3.0, 4.0}), false);
  SgdOptimiser optimiser(p, {});
  optimiser.step(p, gradients_of(p, {{1.0, 1.0}, {1.0, 1.0}}), 0.1);
  CHECK(p.find("w")->value.at(0) == doctest::Approx(0.9));
  CHECK(p.find("mean")->value.to_vector() == std::vector<double>{3.0, 4.0});
  REQUIRE(optimiser.state().size() == 2);
  CHECK(optimiser.state()[0].first == "momentum.w");
  CHECK(optimiser.state()[1].second.numel() == 0);
}

// loss = w^3: 12 at w = 2. Backward after a step would read the new w.
TEST_CASE("optimiser: a step before a second backward pass is noticed") {
  for (const bool adam : {false, true}) {
    Parameters p;
    const Parameter& w = p.add("w", Tensor::of<double>({1}, {2.0}));
    std::unique_ptr<Optimiser> optimiser;
    if (adam) {
      optimiser = std::make_unique<AdamWOptimiser>(p, AdamWOptimiser::Config{});
    } else {
      optimiser = std::make_unique<SgdOptimiser>(p, SgdOptimiser::Config{.momentum = 0.0});
    }
    Tape t;
    const auto record = [&] { return sum(t.parameter(w) * t.parameter(w) * t.parameter(w)); };
    const Var loss = record();
    const Gradients g = t.backward(loss, {.retain = true});
    CHECK(g[w].at(0) == 12.0);
    CHECK(t.backward(loss, {.retain = true})[w].at(0) == 12.0);
    const std::uint32_t then = w.value.version();
    optimiser->step(p, g, 0.01);
    CHECK(error_of([&] { t.backward(loss, {.retain = true}); }) ==
          fmt::format("[backward] node 2 ('mul') needs its input 1 (the parameter 'w'), f64 "
                      "[1], at version {}; it was written since and is at version {}. Run backward "
                      "before the tensor changes, or record the program again.",
                      then, then + 1));
    // A finished step, and the next one.
    t.clear();
    const double now = w.value.at(0);
    CHECK(now < 2.0);
    CHECK(t.backward(record())[w].at(0) == doctest::Approx(3.0 * now * now));
  }
}

TEST_CASE("adamw: an epsilon beside which subnormal moments would count") {
  for (const double epsilon : {0.0, 1e-13, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    CHECK(error_of([&] { AdamWOptimiser(two(), {.epsilon = epsilon}); }) ==
          fmt::format("[adamw] epsilon is {}. Use 1e-12 or more.", epsilon));
  }
  CHECK(error_of([] { AdamWOptimiser(two(), {.epsilon = 1e-12}); }) == "no error");
}

TEST_CASE("optimiser: a parameter that changed its size") {
  Parameters p = two();
  AdamWOptimiser optimiser(p, {});
  const Gradients g = gradients_of(p, kSlopes[0]);
  Parameter& first = *p.begin();
  const std::string before = first.value.shape().str();
  first.value = Tensor::zeros({9}, first.value.dtype(), Device::cpu);
  CHECK(error_of([&] { optimiser.step(p, g, 0.1); }) ==
        "[optimiser] '" + first.name + "' is [9] and was " + before +
            " when this was made. Make another one.");
}

TEST_CASE("optimiser: parameters of another model") {
  Parameters p = two();
  SgdOptimiser optimiser(p, {});
  Parameters other = two();
  const Gradients g = gradients_of(other, kSlopes[0]);
  CHECK(error_of([&] { optimiser.step(other, g, 0.1); }) ==
        "[optimiser] 'layer.weight' is no parameter that it was made for. Make another one.");
  Parameters none;
  CHECK(error_of([&] { optimiser.step(none, g, 0.1); }) ==
        "[optimiser] 0 parameters; it was made for 2. Make another one.");
}

TEST_CASE("optimiser: what the loss does not depend on is stepped by a gradient of zeros") {
  for (const Device device : {Device::cpu, Device::guarded}) {
    Parameters p = two();
    for (Parameter& each : p) each.value = each.value.to(device);
    const Parameter& w = *p.find("layer.weight");
    SgdOptimiser optimiser(p, {.momentum = 0.0, .weight_decay = 0.5});
    Tape t;
    const Gradients g = t.backward(sum(t.parameter(*p.find("layer.router.weight"))));
    CHECK(!g.find(w).defined());
    CHECK(g[w].to_vector() == std::vector<double>{0.0, 0.0, 0.0});
    CHECK(optimiser.step(p, g, 0.5).item() == std::sqrt(2.0));
    CHECK(w.value.to_vector() == std::vector<double>{0.75, -1.5, 0.375});
  }
}

TEST_CASE("optimiser: on another device the bits of the CPU, and nobody waits") {
  for (const bool adam : {false, true}) {
    const auto trained = [&](Device device) {
      Parameters p = two(0.5);
      for (Parameter& each : p) each.value = each.value.to(device);
      std::unique_ptr<Optimiser> optimiser;
      if (adam) {
        optimiser = std::make_unique<AdamWOptimiser>(p, AdamWOptimiser::Config{});
      } else {
        optimiser = std::make_unique<SgdOptimiser>(p, SgdOptimiser::Config{});
      }
      const std::uint64_t waits = waits_for_devices();
      for (const auto& slopes : kSlopes) {
        optimiser->step(p, gradients_of(p, slopes), 0.1, 1.0);
      }
      CHECK(waits_for_devices() == waits);
      CHECK(optimiser->steps() == 3);
      optimiser->set_steps(8);
      CHECK(optimiser->steps() == 8);
      std::vector<Tensor> all;
      for (const Parameter& each : p) all.push_back(each.value.to(Device::cpu));
      for (const auto& [name, tensor] : optimiser->state()) {
        CHECK(tensor.device() == device);
        all.push_back(tensor.to(Device::cpu));
      }
      return all;
    };
    const std::vector<Tensor> here = trained(Device::cpu);
    const std::vector<Tensor> there = trained(Device::guarded);
    for (std::size_t i = 0; i < here.size(); ++i) CHECK(here[i].same_bits(there[i]));
  }
}

TEST_CASE("clipping: a norm or a loss that is no number makes no step, and the next one is made") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  Parameters p = two();
  AdamWOptimiser optimiser(p, {});
  const Parameter& w = *p.find("layer.weight");
  const Tensor before = w.value.clone();
  for (const double bad : {nan, infinity}) {
    const Gradients g = gradients_of(p, {{0.5, bad, 2.0}, {3.0, -0.25}});
    CHECK(!std::isfinite(optimiser.step(p, g, 0.1, 1.0).item()));
    const Gradients good = gradients_of(p, kSlopes[0]);
    CHECK(std::isnan(optimiser.step(p, good, 0.1, 1.0, Tensor::scalar(bad)).item()));
  }
  CHECK(optimiser.steps() == 0);
  CHECK(w.value.same_bits(before));
  for (const auto& [name, tensor] : optimiser.state()) {
    for (const double x : tensor.to_vector()) CHECK(x == 0.0);
  }
  Parameters other = two();
  AdamWOptimiser fresh(other, {});
  const double norm =
      optimiser.step(p, gradients_of(p, kSlopes[0]), 0.1, 1.0, Tensor::scalar(2.0)).item();
  CHECK(norm == fresh.step(other, gradients_of(other, kSlopes[0]), 0.1, 1.0).item());
  CHECK(optimiser.steps() == 1);
  CHECK(w.value.same_bits(other.find("layer.weight")->value));
}

TEST_CASE("clipping: the norm of all gradients that are trained, before it is limited") {
  Parameters p = two();
  p.add("mean", Tensor::of<double>({1}, {3.0}), false);
  SgdOptimiser optimiser(p, {.momentum = 0.0});
  const Gradients g = gradients_of(p, {{3.0, 0.0, 4.0}, {0.0, 12.0}, {5.0}});
  CHECK(optimiser.step(p, g, 1.0, 1.0).item() == 13.0);
  CHECK(p.find("layer.weight")->value.at(0) == doctest::Approx(1.0 - 3.0 / 13.0));
  CHECK(p.find("layer.router.weight")->value.at(1) == doctest::Approx(4.0 - 12.0 / 13.0));
}

}  // namespace
}  // namespace moegrad
