#include "cuda/emulator/block.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <boost/context/fiber.hpp>
#include <sys/mman.h>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"
#include "cuda/emulator/threads.h"

namespace cuda_emulator {
namespace {

using boost::context::fiber;
using observer::now;

constexpr int kMostThreads = 1024;
constexpr std::size_t kStack = std::size_t{256} << 10;
constexpr std::size_t kGap = 64;  // between shared arrays: belongs to none
constexpr std::size_t kSharedRoom = std::size_t{1} << 20;
constexpr std::size_t kStaticLimit = 48 * 1024;  // bytes

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
  std::size_t below(std::size_t n) { return n == 0 ? 0 : next() % n; }

 private:
  std::uint64_t state_;
};

enum class State { waiting, ready, ended };

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes, zeros;
};

struct Thread {
  int number = 0;
  uint3 index = {};
  State state = State::ready;
  int worker = -1;                // that runs it; -1: not started
  const char* barrier = nullptr;  // that it waits at
  int line = 0;
  std::uint64_t given = 0;                // to a collective
  std::vector<Copy> copies;               // not committed yet
  std::vector<std::vector<Copy>> groups;  // committed, not waited for
};

// At a barrier.
struct Arrivals {
  int count = 0;
  int first = 0;  // thread
};

struct Warp {
  Arrivals arrivals;
  std::uint32_t epoch = 0;
  std::array<std::array<std::uint64_t, 32>, 2> values = {};  // by the parity of the epoch
};

struct SharedArray {
  const SharedSite* site = nullptr;  // null: the dynamic one
  std::byte* begin = nullptr;
  std::size_t bytes = 0;
};

// A fiber that runs one thread after the other, each to its end.
struct Worker {
  fiber suspended;
  void* fake_stack = nullptr;  // for the sanitizer, with where the stack lies
  const void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
};

class Machine {
 public:
  void run(const Grid& grid);

  // --- called by threads
  const Thread& current() const { return *current_; }
  const Grid& grid() const { return *grid_; }
  uint3 block() const { return block_; }
  int wait_for_block(const char* barrier, int line, bool predicate);
  const std::array<std::uint64_t, 32>& wait_for_warp(const char* collective, unsigned mask,
                                                     std::uint64_t given, int line);
  void* shared(const SharedSite* site);
  void copy_later(const Copy& copy, const void* code);
  void commit();
  void wait_for_copies(std::size_t left);
  [[noreturn]] void die(const std::string& what, const void* code);

  // --- about the block
  std::string block_of(std::uint32_t interval) const;
  bool is_own(const void* at) const;
  const SharedArray* array_at(const void* at) const;
  boost::context::stack_context stack_of(int worker);

 private:
  void run_block(std::size_t number);
  void work(int worker);
  void pause();
  void enter(Thread& thread);
  void leave_to(Thread& thread);
  void switch_to(int worker);
  Thread* next();
  void make_ready(int first, int last);
  void arrive(const char* barrier, int line, Arrivals& others);
  [[noreturn]] void stuck();
  void begin_interval();
  int idle_worker();

  const Grid* grid_ = nullptr;
  uint3 block_ = {};
  int size_ = 0;
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
  std::vector<SharedArray> arrays_;
  std::byte* shared_ = nullptr;
  std::size_t shared_used_ = 0, static_bytes_ = 0;
  std::vector<std::pair<std::uint32_t, std::size_t>> blocks_;  // first interval, number
  std::string error_;

  std::byte* stacks_ = nullptr;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<int> idle_;
  int running_ = -1;  // worker; -1: the host
  int before_ = -1;   // who switched to it
  Worker host_;
};

Machine& machine() {
  static auto* const machine = new Machine;  // outlives all that is static
  return *machine;
}

struct StackOf {
  int worker;
  boost::context::stack_context allocate() const { return machine().stack_of(worker); }
  void deallocate(boost::context::stack_context&) const {}
};

std::string text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
uint3 index_of(std::size_t number, const dim3& size) {
  return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
          static_cast<unsigned>(number / size.x / size.y)};
}

// --- fibers

boost::context::stack_context Machine::stack_of(int worker) {
  if (stacks_ == nullptr) {
    stacks_ = static_cast<std::byte*>(mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  std::byte* const begin = stacks_ + static_cast<std::size_t>(worker) * kStack;
  constexpr std::size_t kPage = 4096;
  mprotect(begin, kPage, PROT_NONE);
  allow(begin + kPage, kStack - kPage);
  boost::context::stack_context context;
  // Not all at one place of their pages: they would take each other's place in the caches.
  const std::size_t shift = static_cast<std::size_t>(worker) % 61 * 832;
  context.size = kStack - kPage - shift;
  context.sp = begin + kStack - shift;
  return context;
}

int Machine::idle_worker() {
  if (!idle_.empty()) {
    const int worker = idle_.back();
    idle_.pop_back();
    return worker;
  }
  const auto worker = static_cast<int>(workers_.size());
  workers_.push_back(std::make_unique<Worker>());
  const boost::context::stack_context stack = stack_of(worker);
  workers_.back()->stack_bytes = stack.size;
  workers_.back()->stack_bottom = static_cast<std::byte*>(stack.sp) - stack.size;
  workers_.back()->suspended =
      fiber(std::allocator_arg, StackOf{worker}, [this, worker](fiber&& from) {
        Worker& who = before_ < 0 ? host_ : *workers_[static_cast<std::size_t>(before_)];
        who.suspended = std::move(from);
        finish_switch(nullptr, &who.stack_bottom, &who.stack_bytes);
        work(worker);
        return fiber();  // never: it goes on with the next thread
      });
  return worker;
}

// Returns when somebody switches back.
void Machine::switch_to(int worker) {
  const auto of = [this](int i) -> Worker& {
    return i < 0 ? host_ : *workers_[static_cast<std::size_t>(i)];
  };
  const int me = running_;
  before_ = me;
  running_ = worker;
  Worker& to = of(worker);
  begin_switch(&of(me).fake_stack, to.stack_bottom, to.stack_bytes);
  fiber from = std::move(to.suspended).resume();
  Worker& who = of(before_);
  who.suspended = std::move(from);
  finish_switch(of(me).fake_stack, &who.stack_bottom, &who.stack_bytes);
}

// A worker's life: thread after thread, each to its end.
void Machine::work(int worker) {
  for (;;) {
    current_->worker = worker;
    now.observing = settings().observed;
    grid_->body(grid_->arguments.get());
    now.observing = false;
    current_->state = State::ended;
    ++ended_;
    Thread* const thread = next();
    if (thread == nullptr) {
      if (ended_ < size_) stuck();
      idle_.push_back(worker);
      switch_to(-1);
    } else if (thread->worker >= 0) {
      idle_.push_back(worker);
      enter(*thread);
      switch_to(thread->worker);
    } else {
      enter(*thread);
    }
  }
}

void Machine::enter(Thread& thread) {
  current_ = &thread;
  now.thread = static_cast<std::uint32_t>(thread.number);
  now.warp_epoch = warps_[static_cast<std::size_t>(thread.number / 32)].epoch;
}

// The running thread waits; others run until it is ready again.
void Machine::pause() {
  Thread* const me = current_;
  Thread* const thread = next();
  if (thread == nullptr) stuck();
  enter(*thread);
  if (thread == me) return;
  if (thread->worker < 0) thread->worker = idle_worker();
  switch_to(thread->worker);
}

Thread* Machine::next() {
  if (ready_.empty()) return nullptr;
  Thread& thread = threads_[static_cast<std::size_t>(ready_.back())];
  ready_.pop_back();
  return &thread;
}

void Machine::make_ready(int first, int last) {
  for (int i = last - 1; i >= first; --i) {
    threads_[static_cast<std::size_t>(i)].state = State::ready;
    ready_.push_back(i);
    if (shuffles_) std::swap(ready_.back(), ready_[random_.below(ready_.size())]);
  }
}

// --- barriers

// The running thread comes to a barrier, of which `others` tells who was there first.
void Machine::arrive(const char* barrier, int line, Arrivals& others) {
  Thread& me = *current_;
  if (others.count++ == 0) others.first = me.number;
  const Thread& first = threads_[static_cast<std::size_t>(others.first)];
  me.state = State::waiting;
  me.barrier = barrier;
  me.line = line;
  if (first.barrier == barrier && first.line == line) return;
  die("divergent barrier: this thread comes to " + std::string(barrier) + " of line " +
          std::to_string(line) + ", thread " + std::to_string(first.number) + " waits at " +
          first.barrier + " of line " + std::to_string(first.line) +
          ". Let all threads take the same way",
      nullptr);
}

void Machine::begin_interval() {
  ++now.interval;
  for (Warp& warp : warps_) warp.epoch = 0;
}

int Machine::wait_for_block(const char* barrier, int line, bool predicate) {
  arrive(barrier, line, arrivals_);
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

const std::array<std::uint64_t, 32>& Machine::wait_for_warp(const char* collective, unsigned mask,
                                                            std::uint64_t given, int line) {
  Thread& me = *current_;
  const int first = me.number / 32 * 32;
  Warp& warp = warps_[static_cast<std::size_t>(me.number / 32)];
  if (mask != 0xffffffffU) {
    die(std::string(collective) + " with a mask that is not full. Use 0xffffffff", nullptr);
  }
  if (size_ - first < 32) {
    die(std::string(collective) + " in a warp of " + std::to_string(size_ - first) +
            " threads. Launch blocks of whole warps",
        nullptr);
  }
  arrive(collective, line, warp.arrivals);
  // Those of the last epoch may still be read.
  auto& values = warp.values[warp.epoch % 2];
  values[static_cast<std::size_t>(me.number - first)] = given;
  if (warp.arrivals.count == 32) {
    warp.arrivals.count = 0;
    ++warp.epoch;
    make_ready(first, first + 32);
  }
  pause();
  return values;
}

// --- shared memory

void* Machine::shared(const SharedSite* site) {
  for (const SharedArray& array : arrays_) {
    if (array.site == site) return array.begin;
  }
  const std::size_t bytes = site == nullptr ? grid_->dynamic_bytes : site->bytes;
  if (site == nullptr && bytes == 0)
    die("uses dynamic shared memory, and was launched with none", nullptr);
  if (site != nullptr && (static_bytes_ += bytes) > kStaticLimit) {
    die("declares " + std::to_string(static_bytes_) + " bytes of shared arrays, where " +
            std::to_string(kStaticLimit) + " are allowed. Use DYNAMIC_SHARED",
        nullptr);
  }
  if (static_bytes_ + grid_->dynamic_bytes > settings().shared_memory) {
    die("needs " + std::to_string(static_bytes_ + grid_->dynamic_bytes) +
            " bytes of shared memory, where a block may have " +
            std::to_string(settings().shared_memory),
        nullptr);
  }
  std::byte* const begin = shared_ + shared_used_;
  shared_used_ += (bytes + 15) / 16 * 16 + kGap;
  allow(begin, bytes);
  memory::poison(begin, bytes);
  arrays_.push_back({site, begin, bytes});
  return begin;
}

const SharedArray* Machine::array_at(const void* at) const {
  const auto* const place = static_cast<const std::byte*>(at);
  const SharedArray* best = nullptr;
  for (const SharedArray& array : arrays_) {
    if (array.begin <= place && (best == nullptr || best->begin < array.begin)) best = &array;
  }
  return best;
}

// A copy counts as a write when it begins and when it is waited for, and what it will write is
// nobody's to read in between.
void Machine::copy_later(const Copy& copy, const void* code) {
  observer::touch(copy.from, copy.bytes - copy.zeros, observer::Access::read, code);
  observer::touch(copy.to, copy.bytes, observer::Access::write, code);
  observer::expect(copy.to, copy.bytes);
  memory::poison(copy.to, copy.bytes);
  current_->copies.push_back(copy);
}

void Machine::commit() {
  current_->groups.push_back(std::move(current_->copies));
  current_->copies.clear();
}

void Machine::wait_for_copies(std::size_t left) {
  auto& groups = current_->groups;
  if (groups.size() <= left) return;
  const auto end = groups.end() - static_cast<std::ptrdiff_t>(left);
  for (auto group = groups.begin(); group != end; ++group) {
    for (const Copy& copy : *group) {
      std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
      std::memset(static_cast<std::byte*>(copy.to) + (copy.bytes - copy.zeros), 0, copy.zeros);
      observer::touch(copy.to, copy.bytes, observer::Access::write, nullptr);
    }
  }
  groups.erase(groups.begin(), end);
}

// --- a grid

void Machine::run(const Grid& grid) {
  grid_ = &grid;
  size_ = static_cast<int>(grid.threads.count());
  shuffles_ = settings().schedule != 0;
  random_ = Random(settings().schedule);
  if (shared_ == nullptr) {
    shared_ = static_cast<std::byte*>(mmap(nullptr, kSharedRoom, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    observer::cover_shared(shared_, kSharedRoom);
  }
  threads_.resize(static_cast<std::size_t>(size_));
  for (int i = 0; i < size_; ++i) {
    Thread& thread = threads_[static_cast<std::size_t>(i)];
    thread.number = i;
    thread.index = index_of(static_cast<std::size_t>(i), grid.threads);
  }
  warps_.resize(static_cast<std::size_t>((size_ + 31) / 32));
  blocks_.clear();
  now.launch_first = now.interval + 1;

  const std::size_t count = grid.blocks.count();
  std::vector<std::size_t> order;
  if (shuffles_) {
    order.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      order[i] = i;
      std::swap(order[i], order[random_.below(i + 1)]);
    }
  }
  for (std::size_t i = 0; i < count; ++i) run_block(shuffles_ ? order[i] : i);
  grid_ = nullptr;
}

void Machine::run_block(std::size_t number) {
  block_ = index_of(number, grid_->blocks);
  arrivals_.count = ended_ = predicates_ = 0;
  for (Thread& thread : threads_) {
    thread.worker = -1;
    thread.copies.clear();
    thread.groups.clear();
  }
  for (Warp& warp : warps_) warp.arrivals.count = 0;
  arrays_.clear();
  shared_used_ = kGap;
  static_bytes_ = 0;
  forbid(shared_, kSharedRoom);
  begin_interval();
  now.block_first = now.interval;
  blocks_.emplace_back(now.interval, number);
  ready_.clear();
  make_ready(0, size_);

  Thread& first = *next();
  enter(first);
  first.worker = idle_worker();
  switch_to(first.worker);
  now.observing = false;
  if (error_.empty()) return;
  // Their threads will never go on; kernels have nothing to be cleaned up.
  for (std::unique_ptr<Worker>& worker : workers_) new fiber(std::move(worker->suspended));
  workers_.clear();
  idle_.clear();
  threads_.clear();
  throw Error(std::exchange(error_, {}));
}

// --- errors

void Machine::die(const std::string& what, const void* code) {
  now.observing = false;
  const std::string line = observer::line_of(code);
  error_ = "[" + grid_->kernel + "] " + what + ". Block " + text(block_) + ", thread " +
           text(current_->index) + (line.empty() ? "" : ", " + line) + ".";
  switch_to(-1);
  __builtin_unreachable();
}

void Machine::stuck() {
  std::string who;
  int ended = 0, first_ended = -1;
  const Thread* waiting = nullptr;
  for (const Thread& thread : threads_) {
    if (thread.state == State::ended) {
      ++ended;
      if (first_ended < 0) first_ended = thread.number;
    } else if (waiting == nullptr || thread.barrier != waiting->barrier ||
               thread.line != waiting->line) {
      waiting = &thread;
      who += (who.empty() ? "" : "; ") + ("thread " + std::to_string(thread.number)) +
             " waits at " + thread.barrier + " of line " + std::to_string(thread.line);
    }
  }
  if (ended > 0) {
    who += "; " + std::to_string(ended) + " threads have returned, " + std::to_string(first_ended) +
           " the first of them";
  }
  die("a barrier that not all threads come to: " + who, nullptr);
}

std::string Machine::block_of(std::uint32_t interval) const {
  std::size_t number = 0;
  for (const auto& [first, block] : blocks_) {
    if (first <= interval) number = block;
  }
  return "block " + text(index_of(number, grid_->blocks));
}

bool Machine::is_own(const void* at) const {
  const auto* const place = static_cast<const std::byte*>(at);
  const std::byte* const stack = stacks_ + static_cast<std::size_t>(running_) * kStack;
  const auto* const given = static_cast<const std::byte*>(grid_->arguments.get());
  return (place >= stack && place < stack + kStack) ||
         (place >= given && place < given + grid_->argument_bytes);
}

}  // namespace

// --- what threads call

uint3 thread_index() { return machine().current().index; }
uint3 block_index() { return machine().block(); }
dim3 block_size() { return machine().grid().threads; }
dim3 grid_size() { return machine().grid().blocks; }

void* shared_array(const SharedSite* site) {
  const Inside inside;
  return machine().shared(site);
}
void* dynamic_shared() {
  const Inside inside;
  return machine().shared(nullptr);
}

void __syncthreads(Here here) {
  const Inside inside;
  machine().wait_for_block("__syncthreads", static_cast<int>(here.line()), false);
}
int __syncthreads_count(int predicate, Here here) {
  const Inside inside;
  return machine().wait_for_block("__syncthreads_count", static_cast<int>(here.line()),
                                  predicate != 0);
}
int __syncthreads_and(int predicate, Here here) {
  const Inside inside;
  const int no =
      machine().wait_for_block("__syncthreads_and", static_cast<int>(here.line()), predicate == 0);
  return no == 0 ? 1 : 0;
}
int __syncthreads_or(int predicate, Here here) {
  const Inside inside;
  const int yes =
      machine().wait_for_block("__syncthreads_or", static_cast<int>(here.line()), predicate != 0);
  return yes > 0 ? 1 : 0;
}

std::array<std::uint64_t, 32> exchange(const char* what, unsigned mask, std::uint64_t value,
                                       const Here& here) {
  return machine().wait_for_warp(what, mask, value, static_cast<int>(here.line()));
}
unsigned lane() { return static_cast<unsigned>(machine().current().number % 32); }

void __pipeline_commit() {
  const Inside inside;
  machine().commit();
}
void __pipeline_wait_prior(unsigned groups) {
  const Inside inside;
  machine().wait_for_copies(groups);
}
void __pipeline_memcpy_async(void* shared, const void* global, std::size_t bytes,
                             std::size_t zeros) {
  const Inside inside;
  const auto places =
      reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || places % bytes != 0 || zeros > bytes) {
    die("__pipeline_memcpy_async of " + std::to_string(bytes) +
            " bytes: it copies 4, 8 or 16, between addresses that are multiples of that",
        __builtin_return_address(0));
  }
  machine().copy_later({shared, global, bytes, zeros}, __builtin_return_address(0));
}

// --- block.h

void run(const Grid& grid) {
  const memory::Open open;
  machine().run(grid);
}
void die(const std::string& what, const void* code) { machine().die(what, code); }
std::string block_of(std::uint32_t interval) { return machine().block_of(interval); }
bool is_own(const void* at) { return machine().is_own(at); }
bool shared_whole(const void* at, std::size_t bytes) {
  const SharedArray* const array = machine().array_at(at);
  return array != nullptr &&
         static_cast<const std::byte*>(at) + bytes <= array->begin + array->bytes;
}
std::string shared_place(const void* at) {
  const SharedArray* const array = machine().array_at(at);
  if (array == nullptr) return "no shared array";
  const auto offset = static_cast<const std::byte*>(at) - array->begin;
  const std::string name = array->site == nullptr
                               ? "dynamic shared memory"
                               : "shared array " + std::string(array->site->name) + " (line " +
                                     std::to_string(array->site->line) + ")";
  return "byte " + std::to_string(offset) + " of the " + std::to_string(array->bytes) +
         " bytes of " + name;
}

}  // namespace cuda_emulator
