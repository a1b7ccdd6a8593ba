// What the emulator costs, in ns: `taskset 1 chrt -f 50 speed` on a quiet machine.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

#include "cuda/emulator/emulator.h"
#include "cuda/emulator/kernel.h"
#include "cuda/emulator/launch.h"

using namespace cuda_emulator;

namespace {

constexpr int kRounds = 100;

__global__ void nothing() {}
__global__ void barriers() {
  for (int i = 0; i < kRounds; ++i) __syncthreads();
}
__global__ void collectives() {
  for (int i = 0; i < kRounds; ++i) __syncwarp();
}
__global__ void shuffles(float* out) {
  float v = static_cast<float>(threadIdx.x);
  for (int i = 0; i < kRounds; ++i) v += __shfl_xor_sync(0xffffffffU, v, 1);
  if (v < 0) *out = v;
}
template <class T, bool kWrites>
__global__ void global(T* x) {
  T* const mine = x + (blockIdx.x * blockDim.x + threadIdx.x) * kRounds;
  T sum = 0;
  for (int i = 0; i < kRounds; ++i) {
    if (kWrites) {
      mine[i] = static_cast<T>(i);
    } else {
      sum = static_cast<T>(sum + mine[i]);
    }
  }
  if (!kWrites && sum == 77) mine[0] = sum;
}
template <bool kWrites>
__global__ void shared(float* out) {
  SHARED_ARRAY(float, s, [1024]);
  const unsigned t = threadIdx.x;
  s[t] = 0;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < kRounds; ++i) {
    if (kWrites) {
      s[t] = sum + static_cast<float>(i);
    } else {
      sum += s[(t + i) % 256];
    }
    asm volatile("" ::: "memory");
  }
  if (sum < 0) *out = sum;
}

// The least of several runs.
template <class F>
double ns(double per, F&& f) {
  double best = 1e30;
  for (int i = 0; i < 9; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
    best = std::min(best, time.count() / per);
  }
  return best;
}

}  // namespace

int main() {
  constexpr unsigned kBlocks = 20, kThreads = 256;
  constexpr double kAll = double{kBlocks} * kThreads, kMany = kAll * kRounds;
  void* memory = nullptr;
  cudaMalloc(&memory, static_cast<std::size_t>(kMany) * 4);
  cudaMemset(memory, 0, static_cast<std::size_t>(kMany) * 4);
  auto* const f = static_cast<float*>(memory);
  auto* const h = static_cast<std::uint16_t*>(memory);
  const Shape shape{kBlocks, kThreads};
  for (const bool shuffled : {false, true}) {
    Settings s = settings();
    s.schedule = shuffled ? 1 : 0;
    const With with(s);
    std::printf("%s\n", shuffled ? "seeded order" : "order of the numbers");
    std::printf("  %-24s %6.1f\n", "thread started", ns(kAll, [&] { launch<nothing>(shape); }));
    std::printf("  %-24s %6.1f\n", "__syncthreads, a thread",
                ns(kMany, [&] { launch<barriers>(shape); }));
    std::printf("  %-24s %6.1f\n", "__syncwarp, a thread",
                ns(kMany, [&] { launch<collectives>(shape); }));
    std::printf("  %-24s %6.1f\n", "shuffle, a thread",
                ns(kMany, [&] { launch<shuffles>(shape, f); }));
  }
  for (const bool observed : {true, false}) {
    Settings s = settings();
    s.observed = observed;
    const With with(s);
    std::printf("%s\n", observed ? "observed" : "not observed");
    std::printf("  %-24s %6.1f\n", "global write, f32",
                ns(kMany, [&] { launch<global<float, true>>(shape, f); }));
    std::printf("  %-24s %6.1f\n", "global read, f32",
                ns(kMany, [&] { launch<global<float, false>>(shape, f); }));
    std::printf("  %-24s %6.1f\n", "global write, 16 bits",
                ns(kMany, [&] { launch<global<std::uint16_t, true>>(shape, h); }));
    std::printf("  %-24s %6.1f\n", "global read, 16 bits",
                ns(kMany, [&] { launch<global<std::uint16_t, false>>(shape, h); }));
    std::printf("  %-24s %6.1f\n", "shared write, f32",
                ns(kMany, [&] { launch<shared<true>>(shape, f); }));
    std::printf("  %-24s %6.1f\n", "shared read, f32",
                ns(kMany, [&] { launch<shared<false>>(shape, f); }));
  }
}
