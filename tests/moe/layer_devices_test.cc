// The layer on the other devices: on the guarded one no element is touched outside of kernels and
// transfers and its numbers have the bits of the host's, CUDA's are those within rounding; and it
// waits for nothing but what its traits say.
#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "moe/checks/check.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/devices.h"

using namespace moegrad;
using test::agrees;
using test::other_devices;

namespace {

LayerConfig config_for(const std::string& router, const std::string& estimator) {
  const RouterEntry& entry = router_entry(router);
  LayerConfig config;
  config.router = router;
  config.estimator = estimator;
  config.size = {4, 5, 3, 4, std::clamp<std::int64_t>(2, entry.least_active, entry.most_active)};
  config.force = true;
  return config;
}

struct Run {
  Form form;
  DType dtype;
};

void compare(const LayerFixture& fixture, const PassOptions& options, const LayerPass& here,
             Device device) {
  CAPTURE(name_of(device));
  CAPTURE(name_of(options.dtype));
  LayerPass there;
  try {
    there = run_pass(on(device, fixture), options);
  } catch (const Error& e) {
    FAIL_CHECK(e.what());
    return;
  }
  CHECK(agrees(there.y, here.y, device));
  CHECK(agrees(there.selected, here.selected, device));
  CHECK(agrees(there.weights, here.weights, device));
  CHECK(agrees(there.auxiliary, here.auxiliary, device));
  CHECK(agrees(there.logit_gradients, here.logit_gradients, device));
  for (std::size_t i = 0; i < here.gradients.size(); ++i) {
    CAPTURE(fixture.names[i]);
    CHECK(agrees(there.gradients[i], here.gradients[i], device));
  }
  REQUIRE(there.updates.size() == here.updates.size());
  for (std::size_t i = 0; i < here.updates.size(); ++i) {
    CHECK(agrees(there.updates[i].second, here.updates[i].second, device));
  }
  CHECK(there.load == here.load);
  CHECK(there.dropped == here.dropped);
}

void compare(const LayerFixture& fixture, const std::vector<Run>& runs) {
  CAPTURE(fixture.config.router);
  CAPTURE(fixture.config.estimator);
  CAPTURE(fixture.label);
  for (const auto& [form, dtype] : runs) {
    const PassOptions options{.form = form, .dtype = dtype};
    const LayerPass here = run_pass(fixture, options);
    for (const Device device : other_devices()) compare(fixture, options, here, device);
  }
}

// In training and at inference, with padding and on the edges.
void compare_all(const LayerConfig& config) {
  const std::vector<Run> all = {
      {Form::fused, DType::f64}, {Form::fused, DType::f32}, {Form::written, DType::f64}};
  for (const bool training : {true, false}) {
    const LayerFixture fixture = random_fixture(config, 5, training);
    compare(fixture, all);
    const Tensor mask = Tensor::of<std::int32_t>({8}, {0, 1, 1, 0, 1, 1, 1, 0});
    compare(padded(fixture, mask, 8, 1e30), {all.front()});
  }
  for (const LayerFixture& fixture : edge_fixtures(config)) compare(fixture, {all.front()});
}

// Waits of a forward and a backward pass.
std::uint64_t waits_of(Device device, const LayerConfig& config, bool training) {
  const LayerFixture fixture = on(device, random_fixture(config, 5, training));
  Tape tape({.rng = Rng{11, 0, 0}});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) {
    leaves.push_back(tape.variable(value.to(device)));
  }
  Weights weights;
  const LayerInput in = fixture.input(leaves, weights);
  const std::uint64_t before = waits_for_devices();
  const LayerOutput out = Layer(config).forward(in);
  Var loss = sum(square(out.y));
  if (out.auxiliary.defined()) loss = loss + out.auxiliary;
  tape.backward(loss);
  return waits_for_devices() - before;
}

}  // namespace

// Of routers away from the edges: tests/moe/routers/devices_test.cc.
TEST_CASE("every router's layer has the host's numbers on the other devices, on the edges") {
  for (const RouterEntry& router : routers()) {
    for (const LayerFixture& fixture : edge_fixtures(config_for(router.name, "sparse"))) {
      compare(fixture, {{Form::fused, DType::f64}});
    }
  }
}

TEST_CASE("every estimator's layer has the host's numbers on the other devices") {
  for (const EstimatorEntry& estimator : estimators()) {
    for (const std::string& router : estimator.routers) {
      compare_all(config_for(router, estimator.name));
    }
  }
}

TEST_CASE("a layer waits for its device where its estimator says so, and only there") {
  for (const EstimatorEntry& estimator : estimators()) {
    CAPTURE(estimator.name);
    if (estimator.name == "reinforce") continue;  // in its objective, with one of its baselines
    const LayerConfig config = config_for(estimator.routers.front(), estimator.name);
    for (const Device device : other_devices()) {
      CAPTURE(name_of(device));
      CHECK((waits_of(device, config, true) > 0) == (estimator.traits.on_host[0] != '\0'));
      CHECK(waits_of(device, config, false) == 0);
    }
  }
}

TEST_CASE("a layer's gradients are checked on a device, and a wrong one is found there") {
  for (const Device device : other_devices()) {
    CAPTURE(name_of(device));
    const LayerFixture fixture =
        on(device, random_fixture(config_for("top-k", "ste-dense"), 5, true));
    const auto program = [&](Tape&, std::span<const Var> in) {
      Weights weights;
      return to(Layer(fixture.config).forward(fixture.input(in, weights)).y, Device::cpu);
    };
    GradcheckOptions options{.elementwise_limit = 0, .directions = 2, .cotangents = 1};
    const GradcheckReport right = gradcheck(program, fixture.values, options);
    CHECK_MESSAGE(right.verdict == Verdict::pass, right.text());

    bool applied = false;
    const Mutation mutation{"combine", Mutation::Kind::twice, 0, &applied};
    options.mutation = &mutation;
    const GradcheckReport wrong = gradcheck(program, fixture.values, options);
    CHECK(applied);
    CHECK(wrong.verdict == Verdict::fail);
    CHECK_MESSAGE(wrong.culprit.find("(combine)") != std::string::npos, wrong.culprit);
  }
}
