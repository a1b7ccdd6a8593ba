#include "cuda/emulator/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <utility>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {

using observer::now;

Scheduler& scheduler() {
  static auto* const scheduler = new Scheduler;  // outlives all that is static
  return *scheduler;
}

std::string text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

uint3 index_of(std::size_t number, const dim3& size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}

std::string Place::text() const {
  std::string_view file = at.file_name();
  file.remove_prefix(file.rfind('/') + 1);  // npos + 1 is 0
  return std::string(name) + " (" + std::string(file) + ":" + std::to_string(at.line()) + ")";
}

// --- turns

// A worker's life: thread after thread, each to its end.
void Scheduler::work(int worker) {
  for (;;) {
    current_->worker = worker;
    observer::observe(now.owner);
    grid_->body(grid_->arguments.get());
    observer::observe(nullptr);
    current_->state = State::ended;
    ++ended_;
    Thread* const thread = next();
    if (thread == nullptr) {
      if (ended_ < size_) stuck();
      fibers_.rest(worker);
      fibers_.switch_to(Fibers::kHost);
    } else if (thread->worker >= 0) {
      fibers_.rest(worker);
      enter(*thread);
      fibers_.switch_to(thread->worker);
    } else {
      enter(*thread);
    }
  }
}

inline void Scheduler::enter(Thread& thread) {
  current_ = &thread;
  const auto number = static_cast<std::uint32_t>(thread.number);
  now.stand(number, warps_[number / 32].epoch);
}

// The running thread waits; others run until it is ready again.
inline void Scheduler::pause() {
  Thread* const me = current_;
  Thread* const thread = next();
  if (thread == nullptr) stuck();
  enter(*thread);
  if (thread == me) return;
  if (thread->worker < 0) thread->worker = fibers_.idle();
  fibers_.switch_to(thread->worker);
}

inline Scheduler::Thread* Scheduler::next() {
  if (ready_.empty()) return nullptr;
  Thread& thread = at(ready_.back());
  ready_.pop_back();
  if (!ready_.empty()) fibers_.prefetch(at(ready_.back()).worker);
  return &thread;
}

void Scheduler::make_ready(int first, int last) {
  for (int i = last - 1; i >= first; --i) {
    at(i).state = State::ready;
    ready_.push_back(i);
    if (shuffles_) {
      std::swap(ready_.back(), ready_[random_.below(static_cast<std::uint32_t>(ready_.size()))]);
    }
  }
}

// --- barriers

// The running thread comes to a barrier, of which `others` tells who was there first.
inline void Scheduler::arrive(const Place& barrier, Arrivals& others, const char* of) {
  Thread& me = *current_;
  if (others.count++ == 0) others.first = me.number;
  me.state = State::waiting;
  me.barrier = barrier;
  if (!(at(others.first).barrier == barrier)) diverge(barrier, at(others.first), of);
}

// Messages are made in functions of their own: frames of waiting threads stay small.
void Scheduler::diverge(const Place& barrier, const Thread& first, const char* of) {
  die("divergent barrier: this thread comes to " + barrier.text() + ", where thread " +
          text(first.index) + " waits at " + first.barrier.text() + ". Let all threads of the " +
          of + " take the same way",
      {});
}

void Scheduler::refuse(const Place& collective, unsigned mask) {
  if (mask != 0xffffffffU) {
    char digits[16];
    std::snprintf(digits, sizeof digits, "0x%08x", mask);
    die(collective.text() + " has the mask " + digits +
            ". Let all 32 lanes take part, with the mask 0xffffffff",
        {});
  }
  die(collective.text() + " in a warp of " + std::to_string(size_ % 32) +
          " threads. Launch blocks of a multiple of 32 threads",
      {});
}

void Scheduler::begin_interval() {
  now.begin_interval();
  for (Warp& warp : warps_) warp.epoch = 0;
}

int Scheduler::wait_for_block(const Place& barrier, bool predicate) {
  arrive(barrier, arrivals_, "block");
  predicates_ += predicate ? 1 : 0;
  if (arrivals_.count == size_) {
    arrivals_.count = 0;
    verdict_ = std::exchange(predicates_, 0);
    begin_interval();
    make_ready(0, size_);
  }
  pause();
  return verdict_;
}

const Lanes& Scheduler::wait_for_warp(const Place& collective, unsigned mask, std::uint64_t given,
                                      void (*together)(const Lanes&)) {
  Thread& me = *current_;
  const int first = me.number / 32 * 32;
  Warp& warp = warps_[static_cast<std::size_t>(me.number / 32)];
  if (mask != 0xffffffffU || size_ - first < 32) refuse(collective, mask);
  arrive(collective, warp.arrivals, "warp");
  Lanes& values = warp.values[warp.epoch % 2];
  values[static_cast<std::size_t>(me.number - first)] = given;
  if (warp.arrivals.count == 32) {
    warp.arrivals.count = 0;
    ++warp.epoch;
    if (together != nullptr) together(values);
    make_ready(first, first + 32);
  }
  pause();
  return values;
}

// --- a grid

void Scheduler::run(const Grid& grid) {
  runner_ = observer::this_thread();
  grid_ = &grid;
  size_ = static_cast<int>(grid.threads.count());
  shuffles_ = settings().schedule != 0;
  random_ = Random(settings().schedule);
  threads_.resize(static_cast<std::size_t>(size_));
  for (int i = 0; i < size_; ++i) {
    at(i).number = i;
    at(i).index = index_of(static_cast<std::size_t>(i), grid.threads);
  }
  warps_.resize(static_cast<std::size_t>((size_ + 31) / 32));
  blocks_.clear();
  shared_.begin_launch(grid.dynamic_bytes);
  now.begin_launch(settings().observed && grid.observed);
  const AllowLeaks leaks;  // of kernels that are ended: nobody cleans up behind them

  const std::size_t count = grid.blocks.count();
  std::vector<std::uint32_t> order;
  if (shuffles_) {
    order.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      order[i] = static_cast<std::uint32_t>(i);
      std::swap(order[i], order[random_.below(static_cast<std::uint32_t>(i + 1))]);
    }
  }
  for (std::size_t i = 0; i < count && error_.empty(); ++i) run_block(shuffles_ ? order[i] : i);
  runner_ = nullptr;
  if (error_.empty()) return;
  fibers_.abandon();
  throw Error(std::exchange(error_, {}));
}

void Scheduler::run_block(std::size_t number) {
  block_ = index_of(number, grid_->blocks);
  arrivals_.count = ended_ = predicates_ = 0;
  for (Thread& thread : threads_) thread.worker = -1;
  for (Warp& warp : warps_) warp.arrivals.count = 0;
  copies_.begin_block(size_);
  shared_.begin_block();
  begin_interval();
  now.begin_block();
  blocks_.emplace_back(now.interval, number);
  ready_.clear();
  make_ready(0, size_);

  Thread& first = *next();
  enter(first);
  first.worker = fibers_.idle();
  fibers_.switch_to(first.worker);
  observer::observe(nullptr);
}

// --- errors

void Scheduler::end(const std::string& message) {
  observer::observe(nullptr);
  error_ = "[" + grid_->kernel + "] " + message + ".";
  fibers_.switch_to(Fibers::kHost);
  __builtin_unreachable();
}

void Scheduler::die(const std::string& what, const std::string& line) {
  end(what + ". Block " + text(block_) + ", thread " + text(current_->index) +
      (line.empty() ? "" : ", " + line));
}

// No thread can go on, and not all have ended.
void Scheduler::stuck() {
  struct Group {
    const Thread* first;
    int count;
  };
  std::vector<Group> groups;
  for (const Thread& thread : threads_) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return group.first->state == thread.state &&
             (thread.state == State::ended || group.first->barrier == thread.barrier);
    });
    if (same == groups.end()) {
      groups.push_back({&thread, 1});
    } else {
      ++same->count;
    }
  }
  std::string who;
  for (const Group& group : groups) {
    who += (who.empty() ? "" : "; ") + std::to_string(group.count) +
           (group.first->state == State::ended ? " returned before it"
                                               : " wait at " + group.first->barrier.text()) +
           ", the first of them thread " + text(group.first->index);
  }
  end("a barrier that not all threads come to: of " + std::to_string(size_) + " threads " + who +
      ". Let all take the same way and return behind the last barrier. Block " + text(block_));
}

std::string Scheduler::block_of(std::uint32_t interval) const {
  const auto after =
      std::upper_bound(blocks_.begin(), blocks_.end(), interval,
                       [](std::uint32_t i, const auto& block) { return i < block.first; });
  if (after == blocks_.begin()) return "another block";
  return "block " + text(index_of((after - 1)->second, grid_->blocks));
}

bool Scheduler::is_own(const void* at) const {
  const auto* const place = static_cast<const std::byte*>(at);
  const auto* const given = static_cast<const std::byte*>(grid_->arguments.get());
  return fibers_.is_own(at) || (place >= given && place < given + grid_->argument_bytes);
}

}  // namespace cuda_emulator
