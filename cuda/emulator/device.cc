#include "cuda/emulator/device.h"

#include <algorithm>
#include <utility>

#include "cuda/emulator/block.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {
namespace {

std::recursive_mutex& mutex() {
  static auto* const mutex = new std::recursive_mutex;
  return *mutex;
}

// What is wrong with a launch; empty: nothing.
std::string trouble(const dim3& blocks, const dim3& threads, std::size_t shared) {
  struct Limit {
    const char* what;
    std::size_t value, most;
  };
  const Limit limits[] = {{".grid.x", blocks.x, 0x7fffffffU},
                          {".grid.y", blocks.y, 65535},
                          {".grid.z", blocks.z, 65535},
                          {".block.x", threads.x, 1024},
                          {".block.y", threads.y, 1024},
                          {".block.z", threads.z, 64},
                          {"threads of a block", threads.count(), 1024}};
  for (const Limit& limit : limits) {
    if (limit.value >= 1 && limit.value <= limit.most) continue;
    return std::string(limit.what) + " is " + std::to_string(limit.value) + ", where 1 to " +
           std::to_string(limit.most) + " are allowed";
  }
  if (shared <= settings().shared_memory) return {};
  return std::to_string(shared) + " bytes of dynamic shared memory, where a block may have " +
         std::to_string(settings().shared_memory);
}

}  // namespace

Device& device() {
  static auto* const device = new Device;  // outlives all that is static
  return *device;
}

Lock::Lock() { mutex().lock(); }
Lock::~Lock() { mutex().unlock(); }

void check_on_host(const char* call) {
  if (!in_kernel()) return;
  const Inside inside;
  die("calls " + std::string(call) + ", which is the host's. Do it before the launch or after it");
}

Call::OnHost::OnHost(const char* call) { check_on_host(call); }
Call::Call(const Event& event) : name_(event.call), on_host_(name_.c_str()) { note(event); }

void note(const Event& event) {
  for (Log* log = device().log; log != nullptr; log = log->outer_) log->events_.push_back(event);
}
Log::Log() {
  const Lock lock;
  outer_ = std::exchange(device().log, this);
}
Log::~Log() {
  const Lock lock;
  device().log = outer_;
}
std::size_t Log::count(const std::string& call) const {
  return static_cast<std::size_t>(std::count_if(
      events_.begin(), events_.end(), [&](const Event& event) { return event.call == call; }));
}
std::size_t Log::waits() const {
  return static_cast<std::size_t>(std::count_if(events_.begin(), events_.end(),
                                                [](const Event& event) { return event.waits; }));
}

const std::string& refusal() { return device().refusal; }

CUstream_st* of(cudaStream_t stream) {
  CUstream_st* const s = stream == nullptr ? &device().first : stream;
  return device().streams.contains(s) ? s : nullptr;
}

bool spoils_capture() {
  bool spoils = false;
  for (CUstream_st* s : device().streams) {
    if (s->capture == nullptr) continue;
    s->invalid = true;
    spoils = true;
  }
  return spoils;
}

namespace {

void finish_own(CUstream_st& s) {
  while (!s.queue.empty()) {
    const Work work = std::move(s.queue.front());
    s.queue.pop_front();
    try {
      work();
    } catch (...) {
      s.queue.clear();
      throw;
    }
  }
}

// The default stream waits for the blocking ones, and they for it.
void finish_before(CUstream_st& s) {
  if (s.blocking) finish_own(device().first);
  if (&s != &device().first) return;
  for (CUstream_st* other : device().streams) {
    if (other->blocking) finish_own(*other);
  }
}

}  // namespace

void finish(CUstream_st& s) {
  finish_before(s);
  finish_own(s);
}
void finish_all() {
  for (CUstream_st* s : device().streams) finish(*s);
}

void give(CUstream_st& s, Work work) {
  if (s.capture != nullptr) {
    s.capture->work.push_back(std::move(work));
    return;
  }
  if (settings().deferred) {
    finish_before(s);
    s.queue.push_back(std::move(work));
  } else {
    finish(s);  // of what was deferred
    work();
  }
}

void renew(void* memory, std::size_t bytes, CUstream_st* stream) {
  const Call call({.call = "renew", .bytes = bytes});
  CUstream_st* const s = of(stream);
  if (s == nullptr || !memory::whole(memory, bytes)) {
    throw Error("[renew] " + std::to_string(bytes) + " bytes at " + memory::place_of(memory) +
                ", or no such stream. Give it a part of one allocation.");
  }
  give(*s, [=] {
    memory::write_late([=] { memory::poison(memory, bytes); });
    observer::unwritten(memory, bytes);
  });
}

void reset() {
  const Lock lock;
  for (CUstream_st* s : device().streams) {
    s->queue.clear();
    s->capture.reset();
  }
  std::erase_if(device().streams, [](CUstream_st* s) {
    if (s == &device().first) return false;
    delete s;
    return true;
  });
  for (const CUevent_st* event : device().events) delete event;
  device().events.clear();
  device().last = cudaSuccess;
  device().refusal.clear();
  memory::reset();
}

cudaError_t submit(Grid&& grid, cudaStream_t stream) {
  const Call call({.call = "cudaLaunchKernel",
                   .kernel = grid.kernel,
                   .blocks = grid.blocks.count(),
                   .threads = grid.threads.count()});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, "no such stream");
  const std::string wrong = trouble(grid.blocks, grid.threads, grid.dynamic_bytes);
  if (!wrong.empty()) {
    return call.refuse(cudaErrorInvalidConfiguration, grid.kernel + " with " + wrong);
  }
  give(*s, [grid = std::move(grid)] { run(grid); });
  return cudaSuccess;
}

}  // namespace cuda_emulator
