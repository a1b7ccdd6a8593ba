#include "tensor/cpu/parallel.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>

#include "tensor/of_this_thread.h"
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

// Where workers of oneTBB help this thread: one of its own for each thread that calls, so that
// nobody waits for another caller's work, and with no more workers than the caller may use.
class Arena {
 public:
  tbb::task_arena& of_size(int threads) {
    if (!arena_ || threads_ != threads) {
      arena_.emplace(threads, 1);
      threads_ = threads;
    }
    return *arena_;
  }

 private:
  std::optional<tbb::task_arena> arena_;
  int threads_ = 0;
};

// How many of `most` threads the system lets this process have: a worker of oneTBB that cannot
// start another one would end the program.
int count_startable(int most) {
  std::mutex all_are_there;
  std::unique_lock hold(all_are_there);
  std::vector<std::thread> started;
  try {
    while (static_cast<int>(started.size()) + 1 < most) {
      started.emplace_back([&] { const std::lock_guard wait(all_are_there); });
    }
  } catch (const std::exception&) {  // the limit of processes or of memory
  }
  hold.unlock();
  for (std::thread& t : started) t.join();
  return static_cast<int>(started.size()) + 1;
}

// How many threads may work at a time, whatever a team is asked to be.
int most_at_a_time() {
  static const int most = count_startable(processors());
  return most;
}

}  // namespace

int workers() { return in_region ? 1 : threads(); }

void run_pieces(std::int64_t pieces, Share share, PieceWork work) {
  const int team = static_cast<int>(std::min<std::int64_t>(workers(), pieces));
  const int at_a_time = team > 1 ? std::min(threads(), most_at_a_time()) : 1;
  if (at_a_time == 1) {
    for (std::int64_t p = 0; p < pieces; ++p) work(p, 0);
    return;
  }
  constexpr int kFew = 16;
  Run few[kFew];
  std::vector<Run> many(team > kFew ? static_cast<std::size_t>(team) : 0);
  Run* const runs = team > kFew ? many.data() : few;
  Region region(pieces, share == Share::near ? team : 1, runs, work);
  of_this_thread<Arena>().of_size(at_a_time).execute([&] {
    tbb::task_group others;
    try {
      for (int worker = 1; worker < team; ++worker) {
        others.run([&region, worker] { region.work(worker); });
      }
    } catch (const std::exception&) {  // no thread was to be had: this one does all
    }
    region.work(0);
    others.wait();  // those that have not begun are run by this thread, and find nothing to do
  });
  region.rethrow();
}

}  // namespace moegrad::cpu
