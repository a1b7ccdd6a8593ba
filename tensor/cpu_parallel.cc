#include "tensor/cpu_parallel.h"

#include <atomic>
#include <exception>
#include <utility>
#include <vector>

#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include "tensor/threads.h"

namespace moegrad::cpu {
namespace {

thread_local bool in_region = false;

// [next, end) of pieces that nobody has taken, on a cache line of its own.
struct alignas(64) Run {
  std::atomic<std::int64_t> next;
  std::int64_t end;
};

// The pieces of one region while they are worked on.
class Region {
 public:
  // `runs` has room for a run of each worker.
  Region(std::int64_t pieces, int count, Run* runs, PieceWork work)
      : runs_(runs), count_(count), work_(work) {
    for (std::int64_t i = 0; i < count; ++i) {
      runs[i].next.store(pieces * i / count, std::memory_order_relaxed);
      runs[i].end = pieces * (i + 1) / count;
    }
  }

  // Takes pieces until none is left, those of its own run first.
  void work(int worker) noexcept {
    const bool before = std::exchange(in_region, true);
    try {
      for (int i = 0; i < count_; ++i) {
        Run& run = runs_[(worker + i) % count_];
        while (!failed_.load(std::memory_order_relaxed)) {
          const std::int64_t piece = run.next.fetch_add(1, std::memory_order_relaxed);
          if (piece >= run.end) break;
          work_(piece, worker);
        }
      }
    } catch (...) {
      if (!failed_.exchange(true)) exception_ = std::current_exception();
    }
    in_region = before;
  }

  void rethrow() const {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  Run* const runs_;
  const int count_;
  const PieceWork work_;
  std::atomic<bool> failed_{false};
  std::exception_ptr exception_;
};

}  // namespace

int workers() { return in_region ? 1 : threads(); }

void run_pieces(std::int64_t pieces, Share share, PieceWork work) {
  const int team = static_cast<int>(std::min<std::int64_t>(workers(), pieces));
  if (team <= 1) {
    for (std::int64_t p = 0; p < pieces; ++p) work(p, 0);
    return;
  }
  constexpr int kFew = 16;
  Run few[kFew];
  std::vector<Run> many(team > kFew ? static_cast<std::size_t>(team) : 0);
  Run* const runs = team > kFew ? many.data() : few;
  Region region(pieces, share == Share::near ? team : 1, runs, work);
  // Isolated: whoever waits here takes no work of another caller's region, which may last longer.
  tbb::this_task_arena::isolate([&] {
    tbb::task_group others;
    for (int worker = 1; worker < team; ++worker) {
      others.run([&region, worker] { region.work(worker); });
    }
    region.work(0);
    others.wait();  // those that have not begun are run by this thread, and find nothing to do
  });
  region.rethrow();
}

}  // namespace moegrad::cpu
