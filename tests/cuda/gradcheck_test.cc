// A part of `moegrad gradcheck --device cuda`: some rows as they are there, every case of each.
#include <cstdint>
#include <functional>
#include <string>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/registry.h"

using namespace moegrad;

namespace {

// The row of the device beside the host's.
void compare(const std::function<CheckRow(Device)>& check) {
  const CheckRow here = check(Device::cpu);
  const std::uint64_t waits = waits_for_devices();
  const CheckRow there = check(Device::cuda);
  CAPTURE(there.name);
  CAPTURE(there.reason);
  CHECK(there.verdict == Verdict::pass);
  CHECK(there.cases == here.cases);
  CHECK(there.claim == here.claim);
  CHECK(there.dead_inputs == here.dead_inputs);
  CHECK(waits_for_devices() - waits > static_cast<std::uint64_t>(there.cases));
}

}  // namespace

TEST_CASE("gradcheck on the device: operations, of each claim") {
  for (const OperationEntry& e : all_declared_operations()) {
    for (const std::string name :
         {"rms_norm", "max_pool2d", "straight_through", "combine_groups"}) {
      if (e.name == name) compare([&](Device on) { return check_operation(e, nullptr, on); });
    }
  }
}

TEST_CASE("gradcheck on the device: an estimator, enumerated") {
  compare([](Device on) { return check_estimator(estimator_entry("st"), nullptr, on); });
}
