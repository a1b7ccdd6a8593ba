#pragma once

#include <atomic>
#include <chrono>
#include <future>

#include "callback.h"
#include "tensor/threads.h"

namespace moegrad::python {

// f(stop) on a thread of its own. Meanwhile this one, where alone Python sees signals, looks at them
// twenty times a second and calls `watch` with the GIL. What either throws sets `stop` and goes on
// when f has ended.
template <class F, class W>
auto interruptible(F&& f, W&& watch) {
  using std::chrono_literals::operator""ms;
  std::atomic<int> stop{0};
  return without_gil([&] {
    auto result = std::async(std::launch::async, [&, n = threads()] {
      const ThreadScope as_here(n);
      return f(&stop);
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

}  // namespace moegrad::python
