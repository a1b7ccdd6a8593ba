#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include <omp.h>

namespace moegrad::cpu {

// Elements of cheap element-wise work that pay for handing a piece to another thread.
inline constexpr std::int64_t kGrain = 16384;

// How many items of `cost` elements each make up one grain; at least 1.
inline std::int64_t items_per_grain(std::int64_t cost) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, cost));
}

// The number of workers that parallel_pieces may use when called from here.
inline int workers() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

// Keeps the first exception of a parallel region, to be thrown again behind it.
class ExceptionTrap {
 public:
  template <class F>
  void run(F&& f) noexcept {
    if (caught_.load(std::memory_order_relaxed)) return;
    try {
      f();
    } catch (...) {
      if (!caught_.exchange(true)) exception_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (caught_.load()) std::rethrow_exception(exception_);
  }

 private:
  std::atomic<bool> caught_{false};
  std::exception_ptr exception_;
};

// Calls f(begin, end) for consecutive pieces of [0, n), each of `grain` items but for the last: the
// same pieces at every number of threads. One piece runs here and now, without a region.
template <class F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& f) {
  if (n <= 0) return;
  if (n <= grain) {
    f(std::int64_t{0}, n);
    return;
  }
  const std::int64_t pieces = (n + grain - 1) / grain;
  if (workers() == 1) {
    for (std::int64_t p = 0; p < pieces; ++p) f(p * grain, std::min(n, (p + 1) * grain));
    return;
  }
  ExceptionTrap trap;
#pragma omp parallel for schedule(static)
  for (std::int64_t p = 0; p < pieces; ++p) {
    trap.run([&] { f(p * grain, std::min(n, (p + 1) * grain)); });
  }
  trap.rethrow();
}

// Calls f(piece, worker) for every piece in [0, pieces), handed out as workers become free;
// `worker` is below workers() and tells which workspace to use. For pieces of uneven or
// considerable work.
template <class F>
void parallel_pieces(std::int64_t pieces, F&& f) {
  if (pieces <= 1 || workers() == 1) {
    for (std::int64_t p = 0; p < pieces; ++p) f(p, 0);
    return;
  }
  ExceptionTrap trap;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t p = 0; p < pieces; ++p) {
    trap.run([&] { f(p, omp_get_thread_num()); });
  }
  trap.rethrow();
}

}  // namespace moegrad::cpu
