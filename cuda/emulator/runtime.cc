#include "cuda/emulator/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/emulator/device.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

using namespace cuda_emulator;

namespace {

constexpr const char* kNotInCapture = "a stream captures, and this cannot be part of a graph";

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

// What is wrong with an end of a copy; empty: nothing.
std::string trouble(const char* end, const void* at, std::size_t bytes, bool on_device) {
  const std::string name = std::string(end) + ", " + std::to_string(bytes) + " bytes, ";
  if (!on_device) {
    if (at == nullptr) return name + "is the null pointer";
    return memory::holds(at) ? name + "is memory of the device, not of the host" : std::string();
  }
  if (memory::whole(at, bytes)) return {};
  if (!memory::holds(at)) return name + "is not memory of the device";
  const memory::Allocation* const found = memory::find(at);
  return name + (found != nullptr && !found->live ? "was freed: begins at " : "begins at ") +
         memory::place_of(at);
}

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
cudaError_t cudaGetLastError() {
  const Lock lock;
  return std::exchange(device().last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  const Lock lock;
  return device().last;
}

// --- the device

cudaError_t cudaGetDeviceCount(int* count) {
  const Call call({.call = "cudaGetDeviceCount"});
  *count = 0;
  if (settings().driver == 0) return call.refuse(cudaErrorInsufficientDriver, "there is no driver");
  if (settings().devices == 0) return call.refuse(cudaErrorNoDevice, "there is no device");
  *count = settings().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) {
  const Call call({.call = "cudaSetDevice"});
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) return error;
  if (number >= 0 && number < count) return cudaSuccess;
  return call.refuse(cudaErrorInvalidDevice,
                     "no device " + std::to_string(number) + " among " + std::to_string(count));
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  if (const cudaError_t error = cudaSetDevice(number); error != cudaSuccess) return error;
  *properties = {"emulated device",
                 settings().memory,
                 settings().capability / 10,
                 settings().capability % 10,
                 4,
                 settings().shared_memory};
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
  const Call call({.call = "cudaMemGetInfo"});
  *total = settings().memory;
  *free = settings().memory - std::min(settings().memory, memory::used());
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Call call({.call = "cudaDeviceSynchronize", .waits = true});
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  finish_all();
  return cudaSuccess;
}

// --- memory

cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  const Call call({.call = "cudaMalloc", .bytes = bytes});
  *out = nullptr;
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  if (bytes == 0) return cudaSuccess;
  *out = memory::take(bytes);
  if (*out != nullptr) return cudaSuccess;
  return call.refuse(cudaErrorMemoryAllocation, std::to_string(bytes) + " bytes, with " +
                                                    std::to_string(memory::used()) + " in use of " +
                                                    std::to_string(settings().memory));
}
cudaError_t cudaFree(void* at) {
  const Call call({.call = "cudaFree", .waits = true});
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  if (at == nullptr) return cudaSuccess;
  finish_all();
  if (memory::give(at)) return cudaSuccess;
  return call.refuse(
      cudaErrorInvalidValue,
      memory::holds(at) ? "freed before, or not where an allocation begins: " + memory::place_of(at)
                        : "not memory of the device");
}
cudaError_t cudaMallocHost(void** out, std::size_t bytes) {
  const Call call({.call = "cudaMallocHost", .bytes = bytes});
  *out = nullptr;
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  *out = std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64);
  if (*out == nullptr)
    return call.refuse(cudaErrorMemoryAllocation, std::to_string(bytes) + " bytes");
  device().pinned[static_cast<std::byte*>(*out)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* at) {
  const Call call({.call = "cudaFreeHost", .waits = true});
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  if (at == nullptr) return cudaSuccess;
  finish_all();
  if (device().pinned.erase(static_cast<std::byte*>(at)) == 0) {
    return call.refuse(cudaErrorInvalidValue, "not what cudaMallocHost has returned");
  }
  std::free(at);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const void* const host = !from_device ? from : !to_device ? to : nullptr;
  const bool pageable = [&] {
    const Lock lock;
    return host != nullptr && !is_pinned(host, bytes);
  }();
  const Call call({.call = "cudaMemcpyAsync", .bytes = bytes, .waits = pageable && from_device});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, "no such stream");
  if (bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyDefault) {
    return call.refuse(cudaErrorInvalidValue, "cudaMemcpyDefault: say from where to where");
  }
  for (const std::string& wrong :
       {trouble("to", to, bytes, to_device), trouble("from", from, bytes, from_device)}) {
    if (!wrong.empty()) return call.refuse(cudaErrorInvalidValue, wrong);
  }
  if (!pageable) {
    give(*s, [=] { copy(to, from, bytes); });
    return cudaSuccess;
  }
  // Pageable memory is read before the call returns, or written before it does.
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  if (from_device) {
    finish(*s);
    copy(to, from, bytes);
    return cudaSuccess;
  }
  const auto* const begin = static_cast<const std::byte*>(from);
  give(*s, [to, kept = std::make_shared<std::vector<std::byte>>(begin, begin + bytes)] {
    memory::write_late([to, kept] { std::memcpy(to, kept->data(), kept->size()); });
    observer::written(to, kept->size());
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const Call call({.call = "cudaMemcpy", .bytes = bytes, .waits = true});
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Call call({.call = "cudaMemsetAsync", .bytes = bytes});
  CUstream_st* const s = of(stream);
  if (s == nullptr) return call.refuse(cudaErrorInvalidResourceHandle, "no such stream");
  if (bytes == 0) return cudaSuccess;
  if (const std::string wrong = trouble("to", to, bytes, true); !wrong.empty()) {
    return call.refuse(cudaErrorInvalidValue, wrong);
  }
  give(*s, [=] {
    memory::write_late([=] { std::memset(to, value, bytes); });
    observer::written(to, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  const Call call({.call = "cudaMemset", .bytes = bytes});
  if (spoils_capture()) return call.refuse(cudaErrorStreamCaptureUnsupported, kNotInCapture);
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
