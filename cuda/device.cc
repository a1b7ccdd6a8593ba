#include "cuda/device.h"

#include <vector>

#include "cuda/kernels.h"
#include "cuda/stream.h"

namespace moegrad::cuda {
namespace {

constinit CudaKernels cuda_kernels;

}  // namespace

Kernels& kernels() {
  (void)stream();
  return cuda_kernels;
}

std::byte* take(std::size_t bytes) {
  (void)stream();
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is told here, and by no later call
    return nullptr;
  }
  require(error, "cuda");
  return static_cast<std::byte*>(memory);
}

// Of an error nothing more can be said here: a later call meets it.
void give(std::byte* memory) { cudaFree(memory); }

void set_bytes(std::byte* memory, unsigned char value, std::size_t bytes) {
  require(cudaMemsetAsync(memory, value, bytes, stream()), "cuda");
}

bool have_value(const std::byte* memory, unsigned char value, std::size_t bytes) {
  std::vector<unsigned char> host(bytes);
  require(cudaMemcpyAsync(host.data(), memory, bytes, cudaMemcpyDeviceToHost, stream()), "cuda");
  require(cudaStreamSynchronize(stream()), "cuda");
  return host == std::vector<unsigned char>(bytes, value);
}

std::string memory_text() {
  std::size_t free = 0;
  std::size_t total = 0;
  require(cudaMemGetInfo(&free, &total), "cuda");
  return fmt::format("{} bytes of {} are free on the device", free, total);
}

void check_faults() { finish(); }

#ifdef MOEGRAD_CUDA_EMULATED
void renew(std::byte* memory, std::size_t bytes) { cuda_emulator::renew(memory, bytes, stream()); }
void set_schedule(std::uint64_t seed) { cuda_emulator::settings().schedule = seed; }
#else
void renew(std::byte*, std::size_t) {}
void set_schedule(std::uint64_t) {}
#endif

}  // namespace moegrad::cuda
