#include "cuda/stream.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/fault.h"
#include "cuda/graph.h"

namespace moegrad::cuda {
namespace {

// Transfers of so many bytes between two waits go through memory that the device reads and writes by
// itself, so that none of them is a wait of its own.
constexpr std::size_t kStaging = std::size_t{4} << 20;

// What the device is asked for first, once a process. Several host threads may use the one stream.
struct State {
  std::recursive_mutex mutex;
  cudaStream_t stream = nullptr;
  Fault* record = nullptr;                    // on the device
  Fault* found = nullptr;                     // pinned: the record, as it was at the last wait
  std::byte* staging = nullptr;               // pinned
  std::size_t staged = 0;                     // bytes of it, since the last wait
  std::vector<const char*> names;             // of operations that have checks, by their numbers
  std::array<const char*, 16> launches = {};  // the last ones, in a ring
  std::size_t launched = 0;
  bool begun = false;
};
State& state() {
  static auto* const state = new State;  // outlives all that is static
  return *state;
}

void clear_record(State& s) {
  const Fault none;
  require(cudaMemcpyAsync(s.record, &none, sizeof none, cudaMemcpyHostToDevice, s.stream), "cuda");
}

void begin(State& s) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    fail("cuda",
         "the driver serves CUDA {}.{}, and this build needs {}.{}. Install a newer driver, or use "
         "the cpu.",
         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  if (error == cudaErrorNoDevice || count == 0) {
    fail("cuda", "this machine has no CUDA device. Use the cpu.");
  }
  require(error, "cuda");
  require(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "cuda");
  void* record = nullptr;
  require(cudaMalloc(&record, sizeof(Fault)), "cuda");
  s.record = static_cast<Fault*>(record);
  void* pinned = nullptr;
  require(cudaMallocHost(&pinned, kStaging), "cuda");
  s.staging = static_cast<std::byte*>(pinned);
  require(cudaMallocHost(&pinned, sizeof(Fault)), "cuda");
  s.found = static_cast<Fault*>(pinned);
  clear_record(s);
  s.begun = true;
}

std::string last_launches() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  std::string text;
  for (std::size_t i = 0; i < s.launches.size(); ++i) {
    const char* const name = s.launches[(s.launched + i) % s.launches.size()];
    if (name != nullptr) text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text;
}

// Room in the staging memory; null where there is not so much.
std::byte* room_for(State& s, std::size_t bytes) {
  if (bytes > kStaging - s.staged) return nullptr;
  std::byte* const room = s.staging + s.staged;
  s.staged += std::min(kStaging - s.staged, (bytes + 63) / 64 * 64);
  return room;
}

const char* name_of(int operation) {
  const std::lock_guard lock(state().mutex);
  return state().names[static_cast<std::size_t>(operation)];
}

[[noreturn]] void raise(const Fault& f) {
  const char* const name = name_of(f.operation);
  switch (f.kind) {
    case kChoiceFault:
      fail(name, "token {} chooses expert {} of {}. Use 0 to {}, or -1 for none.", f.place, f.value,
           f.limit, f.limit - 1);
    case kRoomFault:
      fail(name, "{} choices, and room for {}. Make room for the most that there can be.", f.value,
           f.limit);
    case kProbabilityFault:
      fail(name, "row {} holds the probability {}. Use 0 or more.", f.place, f.number);
    case kSumFault:
      if (f.number == 0.0) {
        fail(name, "row {} holds no positive probability. Give each row a sum of 1.", f.place);
      }
      fail(name, "row {} has probabilities that add up to {}. Divide by the sum.", f.place,
           f.number);
    default:
      fail(name, "an index is {}, outside [{}, {}). Check the indices against the sizes.", f.value,
           f.low, f.limit);
  }
}

}  // namespace

cudaStream_t stream() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (!s.begun) begin(s);
  return s.stream;
}

void require(cudaError_t error, std::string_view operation) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is told here, and by no later call
  fail(operation, "the device answers {} ({}). The last launches were: {}. {}",
       cudaGetErrorName(error), cudaGetErrorString(error), last_launches(),
       "MOEGRAD_CUDA_SYNC=1 names the one that fails.");
}

void require_here(const Tensor& t, DType dtype) {
  if (t.device() != Device::cuda) {
    fail("cuda", "a kernel is given a {} tensor {} of the {} device. Move it: to(Device::cuda).",
         name_of(t.dtype()), t.shape(), name_of(t.device()));
  }
  if (t.dtype() != dtype) {
    fail("cuda", "elements are {}, asked for as {}. Convert with to().", name_of(t.dtype()),
         name_of(dtype));
  }
}

void note_launch(const char* operation) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  // Asked for by who looks for an error that the device reports late: then it is the last launch's.
  static const bool waits = std::getenv("MOEGRAD_CUDA_SYNC") != nullptr;
  if (waits && s.launched > 0 && !recording()) {
    require(cudaStreamSynchronize(s.stream), s.launches[(s.launched - 1) % s.launches.size()]);
  }
  s.launches[s.launched++ % s.launches.size()] = operation;
}

void upload(const std::byte* from, std::size_t bytes, void* to) {
  require_no_recording("brings numbers to the device");
  const cudaStream_t there = stream();
  State& s = state();
  const std::lock_guard lock(s.mutex);
  std::byte* const room = room_for(s, bytes);
  if (room != nullptr) std::memcpy(room, from, bytes);
  require(cudaMemcpyAsync(to, room != nullptr ? room : from, bytes, cudaMemcpyHostToDevice, there),
          "upload");
  if (room != nullptr) return;
  require(cudaStreamSynchronize(there), "upload");  // it may be pinned by its owner, and read late
  s.staged = 0;
}

void download(const void* from, std::size_t bytes, std::byte* to) {
  require_no_recording("waits for the device");
  const cudaStream_t there = stream();
  const std::lock_guard lock(state().mutex);
  std::byte* const room = room_for(state(), bytes);
  require(cudaMemcpyAsync(room != nullptr ? room : to, from, bytes, cudaMemcpyDeviceToHost, there),
          "download");
  finish();
  if (room != nullptr) std::memcpy(to, room, bytes);
}

void lock_stream() { state().mutex.lock(); }
void unlock_stream() { state().mutex.unlock(); }

Fault* fault_record() {
  (void)stream();
  return state().record;
}

int number_of(const char* operation) {
  const std::lock_guard lock(state().mutex);
  std::vector<const char*>& names = state().names;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == operation || std::strcmp(names[i], operation) == 0) return static_cast<int>(i);
  }
  names.push_back(operation);
  return static_cast<int>(names.size() - 1);
}

void finish() {
  require_no_recording("waits for the device");
  const cudaStream_t there = stream();
  State& s = state();
  const std::lock_guard lock(s.mutex);
  require(cudaMemcpyAsync(s.found, s.record, sizeof(Fault), cudaMemcpyDeviceToHost, there), "cuda");
  require(cudaStreamSynchronize(there), "cuda");
  s.staged = 0;
  if (s.found->kind == kNoFault) return;
  const Fault found = *s.found;
  clear_record(s);
  raise(found);
}

}  // namespace moegrad::cuda
