#include "cuda/emulator/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "cuda/emulator/block.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace {

// Something that a stream does.
using Work = std::function<void()>;

}  // namespace

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::deque<Work> queue;  // given, not done
  std::unique_ptr<CUgraph_st> capture;
  bool invalid = false;  // the capture has met what is not allowed in one
};
struct CUevent_st {
  bool recorded = false, done = true;
};

namespace cuda_emulator {
namespace {

struct Device {
  CUstream_st first;  // the default stream
  std::set<CUstream_st*> streams{&first};
  std::map<std::byte*, std::size_t> pinned;
  cudaError_t last = cudaSuccess;
  Log* log = nullptr;
};
Device& device() {
  static auto* const device = new Device;  // outlives all that is static
  return *device;
}

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) device().last = error;
  return error;
}

CUstream_st* of(cudaStream_t stream) {
  CUstream_st* const s = stream == nullptr ? &device().first : stream;
  return device().streams.contains(s) ? s : nullptr;
}

// Of what a capture does not allow: an error while any stream captures, which spoils the capture.
bool refused_by_capture() {
  bool refused = false;
  for (CUstream_st* s : device().streams) {
    if (s->capture == nullptr) continue;
    s->invalid = true;
    refused = true;
  }
  return refused;
}

void finish(CUstream_st& s) {
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

cudaError_t give(CUstream_st& s, Work work) {
  if (s.capture != nullptr) {
    s.capture->work.push_back(std::move(work));
  } else if (settings().deferred) {
    s.queue.push_back(std::move(work));
  } else {
    work();
  }
  return cudaSuccess;
}

bool is_pinned(const void* at, std::size_t bytes) {
  const auto* const place = static_cast<const std::byte*>(at);
  auto after = device().pinned.upper_bound(const_cast<std::byte*>(place));
  if (after == device().pinned.begin()) return false;
  --after;
  return place + bytes <= after->first + after->second;
}

void copy(void* to, const void* from, std::size_t bytes) {
  const memory::Open open;
  std::memmove(to, from, bytes);
  observer::written(to, bytes);
}

bool fits(const void* at, std::size_t bytes, bool on_device) {
  return on_device ? memory::whole(at, bytes) : at != nullptr && !memory::holds(at);
}

bool allowed(const dim3& blocks, const dim3& threads, std::size_t shared) {
  return blocks.x > 0 && blocks.y > 0 && blocks.z > 0 && threads.count() > 0 &&
         blocks.x <= 0x7fffffffU && blocks.y <= 65535 && blocks.z <= 65535 && threads.x <= 1024 &&
         threads.y <= 1024 && threads.z <= 64 && threads.count() <= 1024 &&
         shared <= settings().shared_memory;
}

}  // namespace

void note(Event event) {
  for (Log* log = device().log; log != nullptr; log = log->outer_) log->events_.push_back(event);
}
Log::Log() : outer_(std::exchange(device().log, this)) {}
Log::~Log() { device().log = outer_; }
std::size_t Log::count(const std::string& call) const {
  return static_cast<std::size_t>(std::count_if(
      events_.begin(), events_.end(), [&](const Event& event) { return event.call == call; }));
}

void reset() {
  for (CUstream_st* s : device().streams) {
    s->queue.clear();
    s->capture.reset();
  }
  device().last = cudaSuccess;
  memory::reset();
}

cudaError_t submit(Grid&& grid, cudaStream_t stream) {
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  note({"cudaLaunchKernel", grid.kernel, grid.blocks.count(), grid.threads.count(), 0});
  if (!allowed(grid.blocks, grid.threads, grid.dynamic_bytes)) {
    return answer(cudaErrorInvalidConfiguration);
  }
  return give(*s, [grid = std::move(grid)] { run(grid); });
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

namespace {

struct Named {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr Named kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not initiated in this stream"},
};
const Named& named(cudaError_t error) {
  for (const Named& n : kErrors) {
    if (n.error == error) return n;
  }
  return kErrors[0];
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return named(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return named(error).text; }
cudaError_t cudaGetLastError() { return std::exchange(device().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return device().last; }

// --- the device

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (settings().driver == 0) return answer(cudaErrorInsufficientDriver);
  if (settings().devices == 0) return answer(cudaErrorNoDevice);
  *count = settings().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) return error;
  return number >= 0 && number < count ? cudaSuccess : answer(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  if (const cudaError_t error = cudaSetDevice(number); error != cudaSuccess) return error;
  *properties = {"emulated device", settings().memory, 9, 0, 4, settings().shared_memory};
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings().driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = settings().memory;
  *free = settings().memory - std::min(settings().memory, memory::used());
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  note({.call = "cudaDeviceSynchronize", .kernel = {}});
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  for (CUstream_st* s : device().streams) finish(*s);
  return cudaSuccess;
}

// --- memory

cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  note({.call = "cudaMalloc", .kernel = {}, .bytes = bytes});
  *out = nullptr;
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  *out = memory::take(bytes);
  return *out == nullptr ? answer(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaFree(void* at) {
  note({.call = "cudaFree", .kernel = {}});
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  if (at == nullptr) return cudaSuccess;
  for (CUstream_st* s : device().streams) finish(*s);
  return memory::give(at) ? cudaSuccess : answer(cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** out, std::size_t bytes) {
  note({.call = "cudaMallocHost", .kernel = {}, .bytes = bytes});
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  *out = std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64);
  if (*out == nullptr) return answer(cudaErrorMemoryAllocation);
  device().pinned[static_cast<std::byte*>(*out)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* at) {
  note({.call = "cudaFreeHost", .kernel = {}});
  if (at == nullptr) return cudaSuccess;
  for (CUstream_st* s : device().streams) finish(*s);
  if (device().pinned.erase(static_cast<std::byte*>(at)) == 0) return answer(cudaErrorInvalidValue);
  std::free(at);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  note({.call = "cudaMemcpyAsync", .kernel = {}, .bytes = bytes});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind == cudaMemcpyDefault || !fits(to, bytes, to_device) || !fits(from, bytes, from_device)) {
    return answer(cudaErrorInvalidValue);
  }
  const void* const host = !from_device ? from : !to_device ? to : nullptr;
  if (host == nullptr || is_pinned(host, bytes)) {
    return give(*s, [=] { copy(to, from, bytes); });
  }
  // Pageable memory is read before the call returns, or written before it does.
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  if (from_device) {
    finish(*s);
    copy(to, from, bytes);
    return cudaSuccess;
  }
  const auto* const begin = static_cast<const std::byte*>(from);
  return give(*s, [to, kept = std::make_shared<std::vector<std::byte>>(begin, begin + bytes)] {
    copy(to, kept->data(), kept->size());
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  note({.call = "cudaMemsetAsync", .kernel = {}, .bytes = bytes});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  if (!fits(to, bytes, true)) return answer(cudaErrorInvalidValue);
  return give(*s, [=] {
    const memory::Open open;
    std::memset(to, value, bytes);
    observer::written(to, bytes);
  });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

// --- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = new CUstream_st;
  device().streams.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  CUstream_st* const s = of(stream);
  if (s == nullptr || stream == nullptr) return answer(cudaErrorInvalidResourceHandle);
  finish(*s);
  device().streams.erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  note({.call = "cudaStreamSynchronize", .kernel = {}});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  finish(*s);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  *out = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  for (CUstream_st* s : device().streams) finish(*s);  // one may be on its way there
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  event->recorded = true;
  event->done = false;
  return give(*s, [event] { event->done = true; });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  return event->done ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  note({.call = "cudaEventSynchronize", .kernel = {}});
  if (refused_by_capture()) return answer(cudaErrorStreamCaptureUnsupported);
  for (CUstream_st* s : device().streams) {
    while (!event->done && !s->queue.empty()) {
      const Work work = std::move(s->queue.front());
      s->queue.pop_front();
      work();
    }
  }
  return cudaSuccess;
}

// --- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  note({.call = "cudaStreamBeginCapture", .kernel = {}});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  if (stream == nullptr || s->capture != nullptr) return answer(cudaErrorStreamCaptureUnsupported);
  s->capture = std::make_unique<CUgraph_st>();
  s->invalid = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  note({.call = "cudaStreamEndCapture", .kernel = {}});
  *out = nullptr;
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  if (s->capture == nullptr) return answer(cudaErrorStreamCaptureUnmatched);
  const std::unique_ptr<CUgraph_st> graph = std::move(s->capture);
  if (s->invalid) return answer(cudaErrorStreamCaptureInvalidated);
  *out = new CUgraph_st(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  note({.call = "cudaGraphLaunch", .kernel = {}});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return answer(cudaErrorInvalidResourceHandle);
  for (const Work& work : graph->work) give(*s, work);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  for (CUstream_st* s : device().streams) finish(*s);
  delete graph;
  return cudaSuccess;
}
