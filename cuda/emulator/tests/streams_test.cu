// Work that a stream does late, and graphs.
#include <cmath>
#include <functional>

#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

__global__ void add(float* x, float by) { x[threadIdx.x] += by; }
__global__ void outside(float* x) { x[threadIdx.x + 1000] = 0; }

// Streams do their work when somebody waits for it.
struct Deferred {
  Settings changed() {
    Settings s = settings();
    s.deferred = true;
    return s;
  }
  With with{changed()};
};

struct Stream {
  cudaStream_t stream = nullptr;
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    cudaStreamCreateWithFlags(&stream, flags);
  }
  ~Stream() { cudaStreamDestroy(stream); }
};

// Memory of the host that copies are late with.
struct Pinned {
  float* at = nullptr;
  explicit Pinned(std::vector<float> values) {
    cudaMallocHost(&at, values.size() * sizeof(float));
    std::copy(values.begin(), values.end(), at);
  }
  ~Pinned() { cudaFreeHost(at); }
};

}  // namespace

TEST_CASE("the host reads a pinned buffer too early") {
  const Deferred deferred;
  over_schedules([](std::uint64_t) {
    const Stream s;
    const Array<float> x(std::vector<float>{1, 2});
    const Pinned host({-1, -1});
    launch<add>({1, 2, 0, s.stream}, x, 10.0F);
    cudaMemcpyAsync(host.at, x, 8, cudaMemcpyDeviceToHost, s.stream);
    CHECK(host.at[0] == -1);  // wrong: too early
    cudaStreamSynchronize(s.stream);
    CHECK(host.at[0] == 11);  // right
  });
}

TEST_CASE("the host overwrites the source too early") {
  const Deferred deferred;
  over_schedules([](std::uint64_t) {
    const Stream s;
    const Array<float> x(std::vector<float>{0, 0});
    const Pinned host({1, 2});
    cudaMemcpyAsync(x, host.at, 8, cudaMemcpyHostToDevice, s.stream);
    host.at[0] = 7;  // wrong: the copy is under way
    cudaStreamSynchronize(s.stream);
    CHECK(x.values() == std::vector<float>{7, 2});

    std::vector<float> pageable = {3, 4};  // has been read when the call returns
    cudaMemcpyAsync(x, pageable.data(), 8, cudaMemcpyHostToDevice, s.stream);
    pageable[0] = 9;
    cudaStreamSynchronize(s.stream);
    CHECK(x.values() == std::vector<float>{3, 4});
  });
}

TEST_CASE("events tell how far a stream is") {
  const Deferred deferred;
  const Stream s, other;
  const Array<float> x(std::vector<float>{0}), y(std::vector<float>{0});
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  launch<add>({1, 1, 0, s.stream}, x, 1.0F);
  cudaEventRecord(event, s.stream);
  launch<add>({1, 1, 0, s.stream}, x, 10.0F);
  launch<add>({1, 1, 0, other.stream}, y, 1.0F);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  // No more than was waited for: copies to pageable memory wait for their own stream alone.
  float now = 0;
  cudaMemcpyAsync(&now, y, 4, cudaMemcpyDeviceToHost, s.stream);
  CHECK(now == 0);
  cudaMemcpyAsync(&now, x, 4, cudaMemcpyDeviceToHost, s.stream);
  CHECK(now == 11);
  cudaDeviceSynchronize();
  CHECK(y.values()[0] == 1);
  CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaEventDestroy(event) == cudaErrorInvalidResourceHandle);
  CHECK(holds(refusal(), "[cudaEventDestroy] no such event"));
}

TEST_CASE("the default stream and those that do not opt out take turns") {
  const Deferred deferred;
  const Stream blocking(0);
  const Array<float> x(std::vector<float>{0});
  launch<add>({1, 1, 0, blocking.stream}, x, 1.0F);
  float now = 0;
  cudaMemcpy(&now, x, 4, cudaMemcpyDeviceToHost);
  CHECK(now == 1);
}

TEST_CASE("errors of late work come from the call that waits") {
  const Deferred deferred;
  NEEDS_OBSERVER
  const Stream s;
  const Array<float> x(std::vector<float>{0});
  CHECK(error_of([&] { launch<outside>({1, 1, 0, s.stream}, x); }) == "");
  launch<add>({1, 1, 0, s.stream}, x, 1.0F);
  CHECK(holds(error_of([&] { cudaStreamSynchronize(s.stream); }), "[outside] out of bounds"));
  CHECK(error_of([&] { cudaStreamSynchronize(s.stream); }) == "");
  CHECK(x.values()[0] == 0);  // what came after it is not done
}

TEST_CASE("several launches that are done late are told apart") {
  const Deferred deferred;
  over_schedules([](std::uint64_t) {
    const Stream s;
    const Array<float> x(std::vector<float>(64, 0));
    for (int i = 0; i < 5; ++i) launch<add>({1, 64, 0, s.stream}, x, static_cast<float>(i));
    CHECK(error_of([&] { cudaStreamSynchronize(s.stream); }) == "");
    CHECK(x.values() == std::vector<float>(64, 10));
  });
}

TEST_CASE("ends of copies") {
  const Array<float> x(std::vector<float>{0, 0});
  float host[2] = {1, 2};
  CHECK(cudaMemcpy(x, host, 12, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(holds(refusal(), "[cudaMemcpyAsync] to, 12 bytes, begins at byte 0 of the 8 bytes of an"));
  CHECK(cudaMemcpy(host, host, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(holds(refusal(), "to, 8 bytes, is not memory of the device"));
  CHECK(cudaMemcpy(x, x, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(holds(refusal(), "to, 8 bytes, is memory of the device, not of the host"));
  CHECK(cudaMemcpy(nullptr, x, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x, host, 8, cudaMemcpyDefault) == cudaErrorInvalidValue);
  CHECK(cudaMemset(x + 1, 0, 8) == cudaErrorInvalidValue);
  CHECK(holds(refusal(), "to, 8 bytes, begins at byte 4 of the 8 bytes of an allocation"));
  CHECK(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host)) ==
        cudaErrorInvalidResourceHandle);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
}

// --- graphs

TEST_CASE("a captured graph does its work when it is launched") {
  for (const bool late : {false, true}) {
    Settings changed = settings();
    changed.deferred = late;
    const With with(changed);
    const Stream s;
    const Array<float> x(std::vector<float>(32, 0));
    const Pinned host(std::vector<float>(32, 1));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    CHECK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    cudaMemcpyAsync(x, host.at, 128, cudaMemcpyHostToDevice, s.stream);
    launch<add>({1, 32, 0, s.stream}, x, 2.0F);
    CHECK(cudaStreamEndCapture(s.stream, &graph) == cudaSuccess);
    CHECK(cudaGraphInstantiate(&ready, graph) == cudaSuccess);
    CHECK(x.values() == std::vector<float>(32, 0));
    for (int i = 0; i < 3; ++i) {
      host.at[5] = static_cast<float>(i);
      const Log log;
      cudaGraphLaunch(ready, s.stream);
      cudaStreamSynchronize(s.stream);
      CHECK(log.waits() == 1);
      CHECK(x.values()[5] == static_cast<float>(i + 2));
      CHECK(x.values()[6] == 3);
    }
    cudaGraphDestroy(graph);
    cudaGraphExecDestroy(ready);
  }
}

TEST_CASE("calls that a capture does not allow spoil it") {
  const Stream s, other;
  const Array<float> x(std::vector<float>{0, 0});
  const Pinned pinned({0, 0});
  float pageable[2] = {0, 0};
  void* memory = nullptr;
  void* host = nullptr;
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, 0);
  const auto check = [&](const char* name, bool allowed, const std::function<cudaError_t()>& call) {
    CAPTURE(name);
    CHECK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    launch<add>({1, 2, 0, s.stream}, x, 1.0F);
    const cudaError_t error = call();
    CHECK(error == (allowed ? cudaSuccess : cudaErrorStreamCaptureUnsupported));
    if (!allowed) CHECK(holds(refusal(), "a stream captures, and "));
    cudaGraph_t graph = nullptr;
    const cudaError_t end = cudaStreamEndCapture(s.stream, &graph);
    CHECK(end == (allowed ? cudaSuccess : cudaErrorStreamCaptureInvalidated));
    CHECK((graph != nullptr) == allowed);
    cudaGraphDestroy(graph);
    cudaGetLastError();
  };
  check("nothing", true, [] { return cudaSuccess; });
  check("launch elsewhere", true, [&] { return launch<add>({1, 2, 0, other.stream}, x, 1.0F); });
  check("pinned copy", true,
        [&] { return cudaMemcpyAsync(pinned.at, x, 8, cudaMemcpyDeviceToHost, s.stream); });
  check("cudaMemsetAsync", true, [&] { return cudaMemsetAsync(x, 0, 8, s.stream); });
  check("cudaEventRecord", true, [&] { return cudaEventRecord(event, s.stream); });
  check("cudaMalloc", false, [&] { return cudaMalloc(&memory, 4); });
  check("cudaFree", false, [&] { return cudaFree(x); });
  check("cudaMallocHost", false, [&] { return cudaMallocHost(&host, 4); });
  check("cudaFreeHost", false, [&] { return cudaFreeHost(pinned.at); });
  check("cudaDeviceSynchronize", false, [] { return cudaDeviceSynchronize(); });
  check("cudaStreamSynchronize", false, [&] { return cudaStreamSynchronize(s.stream); });
  check("cudaEventSynchronize", false, [&] { return cudaEventSynchronize(event); });
  check("cudaEventQuery", false, [&] { return cudaEventQuery(event); });
  check("pageable copy, in", false,
        [&] { return cudaMemcpyAsync(x, pageable, 8, cudaMemcpyHostToDevice, s.stream); });
  check("pageable copy, out", false,
        [&] { return cudaMemcpyAsync(pageable, x, 8, cudaMemcpyDeviceToHost, s.stream); });
  check("cudaMemcpy", false, [&] { return cudaMemcpy(pageable, x, 8, cudaMemcpyDeviceToHost); });
  check("cudaMemset", false, [&] { return cudaMemset(x, 0, 8); });
  cudaEventDestroy(event);
  CHECK(memory == nullptr);

  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(s.stream, &graph) == cudaErrorStreamCaptureUnmatched);
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) ==
        cudaErrorStreamCaptureUnsupported);
  CHECK(holds(refusal(), "the default stream cannot be captured"));
  cudaGetLastError();
}

TEST_CASE("memory of a graph must live as long as it is launched") {
  NEEDS_OBSERVER
  const Stream s;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  {
    const Array<float> x(std::vector<float>(32, 0));
    cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeGlobal);
    launch<add>({1, 32, 0, s.stream}, x, 2.0F);
    cudaStreamEndCapture(s.stream, &graph);
    cudaGraphInstantiate(&ready, graph);
    CHECK(error_of([&] { cudaGraphLaunch(ready, s.stream); }) == "");
  }
  CHECK(holds(error_of([&] { cudaGraphLaunch(ready, s.stream); }), "memory that was freed"));
  cudaGraphDestroy(graph);
  cudaGraphExecDestroy(ready);
}

// --- the log

TEST_CASE("the log tells who waits and who allocates") {
  const Stream s;
  const Pinned host({0, 0});
  const Log log;
  {
    const Array<float> x(std::vector<float>{1, 2});  // malloc, a pageable copy and its wait, free
    launch<add>({1, 2, 0, s.stream}, x, 1.0F);
    cudaMemcpyAsync(host.at, x, 8, cudaMemcpyDeviceToHost, s.stream);
    const std::size_t before = log.waits();
    cudaStreamSynchronize(s.stream);
    CHECK(log.waits() == before + 1);
  }
  CHECK(log.count("cudaMalloc") == 1);
  CHECK(log.count("cudaFree") == 1);
  CHECK(log.count("cudaLaunchKernel") == 1);
  CHECK(log.count("cudaStreamSynchronize") == 2);
  CHECK(log.events()[0].bytes == 8);
}

TEST_CASE("a reset leaves nothing") {
  const Deferred deferred;
  float* x = nullptr;
  cudaMalloc(&x, 400);
  launch<add>({1, 2}, x, 1.0F);
  cudaSetDevice(5);
  reset();
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(refusal().empty());
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  CHECK(free == total);
  cudaDeviceSynchronize();  // the launch is forgotten
  const Array<float> fresh(std::size_t{100});
  CHECK(std::isnan(fresh.values()[0]));
}
