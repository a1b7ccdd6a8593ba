// The layer on the guarded device: no element is touched outside of kernels and transfers, its
// numbers have the bits of the host's, and it waits for nothing but what its traits say.
#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/registry.h"
#include "ops/ops.h"

using namespace moegrad;

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

void compare(const LayerFixture& fixture) {
  CAPTURE(fixture.config.router);
  CAPTURE(fixture.config.estimator);
  CAPTURE(fixture.label);
  for (const Form form : {Form::fused, Form::written}) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      const PassOptions options{.form = form, .dtype = dtype};
      const LayerPass here = run_pass(fixture, options);
      LayerPass there;
      try {
        there = run_pass(on(Device::guarded, fixture), options);
      } catch (const Error& e) {
        FAIL_CHECK(e.what());
        continue;
      }
      CHECK(there.y.same_bits(here.y));
      CHECK(there.selected.same_bits(here.selected));
      CHECK(there.weights.same_bits(here.weights));
      CHECK(there.auxiliary.same_bits(here.auxiliary));
      CHECK(there.logit_gradients.same_bits(here.logit_gradients));
      for (std::size_t i = 0; i < here.gradients.size(); ++i) {
        CAPTURE(fixture.names[i]);
        CHECK(there.gradients[i].same_bits(here.gradients[i]));
      }
      REQUIRE(there.updates.size() == here.updates.size());
      for (std::size_t i = 0; i < here.updates.size(); ++i) {
        CHECK(there.updates[i].second.same_bits(here.updates[i].second));
      }
      CHECK(there.load == here.load);
      CHECK(there.dropped == here.dropped);
    }
  }
}

// In training and at inference, on the edges, and with padding.
void compare_all(const LayerConfig& config) {
  for (const bool training : {true, false}) {
    const LayerFixture fixture = random_fixture(config, 5, training);
    compare(fixture);
    const Tensor mask = Tensor::of<std::int32_t>({8}, {0, 1, 1, 0, 1, 1, 1, 0});
    compare(padded(fixture, mask, 8, 1e30));
  }
  for (const LayerFixture& fixture : edge_fixtures(config)) compare(fixture);
}

// Waits of a forward and a backward pass.
std::uint64_t waits_of(const LayerConfig& config, bool training) {
  const LayerFixture fixture = on(Device::guarded, random_fixture(config, 5, training));
  Tape tape({.rng = Rng{11, 0, 0}});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) {
    leaves.push_back(tape.variable(value.to(Device::guarded)));
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

TEST_CASE("every router's layer has the host's bits on the guarded device") {
  for (const RouterEntry& router : routers()) compare_all(config_for(router.name, "sparse"));
}

TEST_CASE("every estimator's layer has the host's bits on the guarded device") {
  for (const EstimatorEntry& estimator : estimators()) {
    for (const std::string& router : estimator.routers) {
      compare_all(config_for(router, estimator.name));
    }
  }
}

TEST_CASE("a layer waits for its device where its router or its estimator says so, and only there") {
  for (const RouterEntry& router : routers()) {
    CAPTURE(router.name);
    const LayerConfig config = config_for(router.name, "sparse");
    CHECK((waits_of(config, true) > 0) == (router.traits.on_host[0] != '\0'));
    CHECK(waits_of(config, false) == 0);
  }
  for (const EstimatorEntry& estimator : estimators()) {
    CAPTURE(estimator.name);
    if (estimator.name == "reinforce") continue;  // in its objective, with one of its baselines
    const LayerConfig config = config_for(estimator.routers.front(), estimator.name);
    CHECK((waits_of(config, true) > 0) == (estimator.traits.on_host[0] != '\0'));
    CHECK(waits_of(config, false) == 0);
  }
}

TEST_CASE("routers and estimators are checked on a device as on the host") {
  const auto on_guarded = [](const CheckRow& row) {
    CHECK_MESSAGE(row.verdict == Verdict::pass, row.name, ": ", row.reason);
  };
  on_guarded(check_router(router_entry("deepseek-v1"), nullptr, Device::guarded));
  on_guarded(check_estimator(estimator_entry("ste-dense-router"), nullptr, Device::guarded));
}
