// The device's bits do not depend on the order of blocks and threads.
#include <doctest/doctest.h>

#include "cuda/emulator/emulator.h"
#include "moe/checks/check.h"
#include "moe/registry.h"
#include "tensor/maths.h"

using namespace moegrad;

namespace {

constexpr std::uint64_t kSchedules = 10;

LayerPass pass_of(const LayerFixture& fixture, std::uint64_t schedule) {
  cuda_emulator::Settings settings;
  settings.schedule = schedule;
  const cuda_emulator::With with(settings);
  return run_pass(fixture, {.form = Form::fused, .dtype = DType::f32});
}

// The same bits in ten orders.
void check_orders(const std::string& router, const std::string& estimator) {
  CAPTURE(router);
  CAPTURE(estimator);
  LayerConfig config;
  config.router = router;
  config.estimator = estimator;
  config.size = {6, 5, 4, 5, router == "softmax" ? 5 : router == "switch" ? 1 : 2};
  config.force = true;
  const LayerFixture fixture = on(Device::cuda, random_fixture(config, 40, true));
  const LayerPass first = pass_of(fixture, 0);
  for (std::uint64_t schedule = 1; schedule <= kSchedules; ++schedule) {
    CAPTURE(schedule);
    const LayerPass other = pass_of(fixture, schedule);
    CHECK(other.y.same_bits(first.y));
    CHECK(other.selected.same_bits(first.selected));
    REQUIRE(other.gradients.size() == first.gradients.size());
    for (std::size_t i = 0; i < first.gradients.size(); ++i) {
      CHECK(other.gradients[i].same_bits(first.gradients[i]));
    }
  }
}

}  // namespace

TEST_CASE("schedules: ten orders give a layer's output and gradients the same bits") {
  for (const auto& [router, estimator] : {std::pair<std::string, std::string>{"top-k", "sparse"},
                                          {"moesart", "sparse"},
                                          {"top-k", "expert-group"},
                                          {"top-k", "ste-dense"},
                                          {"deepseek-v3", "default-ema"},
                                          {"switch", "sparse"},
                                          {"expert-choice", "sparse"},
                                          {"softmax", "sparse"}}) {
    check_orders(router, estimator);
  }
}

TEST_CASE("schedules: with TF32 and bf16 too") {
  for (const Maths maths : {Maths::tf32, Maths::bf16}) {
    const MathsScope scope(maths);
    check_orders("top-k", "expert-group");
    check_orders("expert-choice", "sparse");
  }
}
