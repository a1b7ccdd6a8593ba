#include <atomic>
#include <chrono>
#include <thread>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tensor/stop.h"
#include "tensor/storage.h"

using namespace moegrad;

TEST_CASE("checks end where they are asked to, and leave the memory as it was") {
  std::atomic<int> stop{2};
  const auto check_all = [] {
    CHECK_THROWS_AS(check_operation(entry_of<Matmul>()), Interruption);
    CHECK_THROWS_AS(check_router(router_entry("moesart")), Interruption);
    CHECK_THROWS_AS(check_estimator(estimator_entry("reinmax")), Interruption);
    CheckRow row;
    LayerConfig config;
    config.size = {3, 4, 2, 4, 2};
    CHECK_THROWS_AS(check_edges(config, router_entry("top-k").traits, {}, row), Interruption);
  };
  {
    const StopScope scope(&stop);
    check_all();
    CHECK(!pool::checked());
    const StopScope none(nullptr);
    CHECK(check_operation(entry_of<Matmul>()).verdict == Verdict::pass);
  }
  CHECK(StopScope::current() == nullptr);
  CHECK(check_operation(entry_of<Matmul>()).verdict == Verdict::pass);
}

TEST_CASE("a check is stopped by another thread, wherever it is") {
  for (const int after : {1, 5, 20, 50, 100}) {
    CAPTURE(after);
    std::atomic<int> stop{0};
    const StopScope scope(&stop);
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(after));
      stop = 1;
    });
    CHECK_THROWS_AS(
        [] {
          for (;;) check_router(router_entry("moesart"));
        }(),
        Interruption);
    other.join();
  }
}
