#include "cuda/stream.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/fault.h"

namespace moegrad::cuda {
namespace {

// What the device is asked for first, once a process. Threads of the host may launch side by side.
struct State {
  std::recursive_mutex lock;
  cudaStream_t stream = nullptr;
  Fault* record = nullptr;                    // on the device
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
  clear_record(s);
  s.begun = true;
}

std::string last_launches() {
  State& s = state();
  const std::lock_guard guard(s.lock);
  std::string text;
  for (std::size_t i = 0; i < s.launches.size(); ++i) {
    const char* const name = s.launches[(s.launched + i) % s.launches.size()];
    if (name != nullptr) text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text;
}

const char* name_of_number(int number) {
  State& s = state();
  const std::lock_guard guard(s.lock);
  return s.names[static_cast<std::size_t>(number)];
}

[[noreturn]] void raise(const Fault& f) {
  const char* const name = name_of_number(f.operation);
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
  const std::lock_guard guard(s.lock);
  if (!s.begun) begin(s);
  return s.stream;
}

void require(cudaError_t error, std::string_view operation) {
  if (error == cudaSuccess) return;
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
  const std::lock_guard guard(s.lock);
  // Asked for by who looks for an error that the device reports late: then it is the last launch's.
  static const bool waits = std::getenv("MOEGRAD_CUDA_SYNC") != nullptr;
  if (waits && s.launched > 0) {
    require(cudaStreamSynchronize(s.stream), s.launches[(s.launched - 1) % s.launches.size()]);
  }
  s.launches[s.launched++ % s.launches.size()] = operation;
}

Fault* fault_record() {
  (void)stream();
  return state().record;
}

int number_of(const char* operation) {
  const std::lock_guard guard(state().lock);
  std::vector<const char*>& names = state().names;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == operation || std::strcmp(names[i], operation) == 0) return static_cast<int>(i);
  }
  names.push_back(operation);
  return static_cast<int>(names.size() - 1);
}

void finish() {
  State& s = state();
  Fault found;
  require(cudaMemcpyAsync(&found, s.record, sizeof found, cudaMemcpyDeviceToHost, stream()),
          "cuda");
  require(cudaStreamSynchronize(s.stream), "cuda");
  if (found.kind == kNoFault) return;
  clear_record(s);
  raise(found);
}

}  // namespace moegrad::cuda
