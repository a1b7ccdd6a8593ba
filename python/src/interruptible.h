#pragma once

#include <atomic>
#include <chrono>
#include <future>
#include <utility>

#include "callback.h"
#include "tensor/stop.h"
#include "tensor/threads.h"

namespace moegrad::python {

// f() on a thread of its own. Meanwhile this one, where alone Python sees signals, looks at them
// twenty times a second and calls `watch` with the GIL. What either throws asks f to stop and goes
// on when it has ended.
template <class F, class W>
auto interruptible(F&& f, W&& watch) {
  using std::chrono_literals::operator""ms;
  std::atomic<int> stop{0};
  return without_gil([&] {
    auto result = std::async(std::launch::async, [&, n = threads()] {
      const ThreadScope as_here(n);
      const StopScope stoppable(&stop);
      return f();
    });
    while (result.wait_for(50ms) != std::future_status::ready) {
      try {
        calling_python(watch);
      } catch (...) {
        stop = 1;
        result.wait();
        throw;
      }
    }
    return result.get();
  });
}
template <class F>
auto interruptible(F&& f) {
  return interruptible(std::forward<F>(f), [] {});
}

}  // namespace moegrad::python
