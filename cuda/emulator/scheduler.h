#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda/emulator/block.h"
#include "cuda/emulator/copies.h"
#include "cuda/emulator/fibers.h"
#include "cuda/emulator/shared.h"

// Who runs when: the threads of a block run from one barrier to the next, in a seeded order.
namespace cuda_emulator {

// SplitMix64: small and good enough to shuffle with.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  std::uint32_t below(std::uint32_t n) {
    return static_cast<std::uint32_t>(((next() >> 32) * n) >> 32);
  }

 private:
  std::uint64_t state_;
};

// A barrier or another collective, in the kernel's source.
struct Place {
  const char* name = nullptr;
  Here at;

  bool operator==(const Place& other) const {
    return name == other.name && at.line() == other.at.line() && at.column() == other.at.column();
  }
  std::string text() const;  // "__syncthreads (sum.cu:12)"
};

class Scheduler {
 public:
  Scheduler() : fibers_([this](int worker) { work(worker); }) {}

  void run(const Grid& grid);
  // Whether it runs a kernel on this host thread.
  bool running() const { return runner_.load() == observer::this_thread(); }

  // --- called by threads
  const Grid& grid() const { return *grid_; }
  uint3 block() const { return block_; }
  uint3 thread() const { return current_->index; }
  int number() const { return current_->number; }
  // Returns of how many threads the predicate holds.
  int wait_for_block(const Place& barrier, bool predicate);
  const Lanes& wait_for_warp(const Place& collective, unsigned mask, std::uint64_t given,
                             void (*together)(const Lanes&));
  // Whether what may be late is done at once.
  bool early() { return !shuffles_ || random_.below(2) == 0; }
  SharedMemory& shared() { return shared_; }
  Copies& copies() { return copies_; }
  [[noreturn]] void die(const std::string& what, const std::string& line);

  // --- about the block
  std::string block_of(std::uint32_t interval) const;
  bool is_own(const void* at) const;

 private:
  enum class State { waiting, ready, ended };
  struct Thread {
    int number = 0;
    State state = State::ready;
    int worker = -1;  // that runs it; -1: not started
    uint3 index = {};
    Place barrier;  // that it waits at
  };
  // At a barrier.
  struct Arrivals {
    int count = 0;
    int first = 0;  // thread
  };
  struct Warp {
    Arrivals arrivals;
    std::uint32_t epoch = 0;
    Lanes values[2] = {};  // by the parity of the epoch: those of the last may still be read
  };

  void run_block(std::size_t number);
  void work(int worker);
  void pause();
  void enter(Thread& thread);
  Thread* next();
  void make_ready(int first, int last);
  void arrive(const Place& barrier, Arrivals& others, const char* of);
  [[noreturn, gnu::cold, gnu::noinline]] void diverge(const Place& barrier, const Thread& first,
                                                      const char* of);
  [[noreturn, gnu::cold, gnu::noinline]] void refuse(const Place& collective, unsigned mask);
  [[noreturn, gnu::cold, gnu::noinline]] void stuck();
  [[noreturn]] void end(const std::string& message);
  void begin_interval();
  Thread& at(int number) { return threads_[static_cast<std::size_t>(number)]; }

  std::atomic<const void*> runner_ = nullptr;
  const Grid* grid_ = nullptr;
  uint3 block_ = {};
  int size_ = 0;  // threads of a block
  Random random_{0};
  bool shuffles_ = false;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> ready_;  // to run, the next one last
  Thread* current_ = nullptr;
  Arrivals arrivals_;
  int ended_ = 0;
  int predicates_ = 0;  // that held, of those that have arrived
  int verdict_ = 0;     // of all, at the last barrier
  std::vector<std::pair<std::uint32_t, std::size_t>> blocks_;  // first interval, number
  std::string error_;
  Fibers fibers_;
  SharedMemory shared_;
  Copies copies_;
};

Scheduler& scheduler();
std::string text(const uint3& index);  // "(1, 0, 0)"
uint3 index_of(std::size_t number, const dim3& size);

}  // namespace cuda_emulator
