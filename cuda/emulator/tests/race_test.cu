// Races in shared memory, within a warp, and between the blocks of a launch.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

enum class Bug { none, read_after_write, write_after_read, write_after_write };

// out[t] = x[n - 1 - t], by way of shared memory.
template <Bug kBug>
__global__ void reverse(const float* x, float* out) {
  SHARED_ARRAY(float, row, [64]);
  const unsigned t = threadIdx.x;
  row[t] = x[t];
  if (kBug != Bug::read_after_write) __syncthreads();
  const float value = row[63 - t];
  if (kBug != Bug::write_after_read) __syncthreads();
  row[t] = value;
  if (kBug == Bug::write_after_write) row[t / 2] = value;
  __syncthreads();
  out[t] = row[t];
}

// part[b] = sum of x over the block, in halves.
template <bool kBarrier>
__global__ void sum(const float* x, float* part) {
  SHARED_ARRAY(float, s, [128]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  for (unsigned half = 64; half > 0; half /= 2) {
    if (t < half) s[t] += s[t + half];
    if (kBarrier) __syncthreads();
  }
  if (t == 0) part[0] = s[0];
}

// The last steps by one warp.
template <bool kSync>
__global__ void warp_sum(const float* x, float* part) {
  SHARED_ARRAY(float, s, [32]);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  for (unsigned half = 16; half > 0; half /= 2) {
    if (kSync) __syncwarp();
    const float other = t < half ? s[t + half] : 0;
    if (kSync) __syncwarp();
    if (t < half) s[t] += other;
  }
  if (t == 0) part[0] = s[0];
}

// __syncwarp() does not reach beyond the warp.
template <bool kBlock>
__global__ void two_warps(const float*, float* out) {
  SHARED_ARRAY(float, s, [64]);
  const unsigned t = threadIdx.x;
  s[t] = static_cast<float>(t);
  if (kBlock) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  out[t] = s[(t + 32) % 64];
}

// Two loops of a tile with one buffer: the second barrier keeps the next tile off the last readers.
template <bool kSecond>
__global__ void tiles(const float* x, float* out) {
  SHARED_ARRAY(float, tile, [32]);
  const unsigned t = threadIdx.x;
  float s = 0;
  for (unsigned k = 0; k < 4; ++k) {
    if (t < 32) tile[t] = x[k * 32 + t];
    __syncthreads();
    for (unsigned i = 0; i < 32; ++i) s += tile[i];
    if (kSecond) __syncthreads();
  }
  out[t] = s;
}

template <class F>
void run(const F& kernel, int threads) {
  const Array<float> x(counted<float>(128));
  const Array<float> out(std::size_t{128});
  kernel(x, out, threads);
}
#define RUN(KERNEL, THREADS) \
  [] { run([](float* x, float* out, unsigned n) { launch<KERNEL>({1, n}, x, out); }, THREADS); }

}  // namespace

TEST_CASE("shared memory: reads and writes with no barrier between are races") {
  NEEDS_OBSERVER
  check_passes(RUN(reverse<Bug::none>, 64));
  check_caught(RUN(reverse<Bug::read_after_write>, 64),
               {"[reverse", "put a __syncthreads() ", "shared array row (line 14)",
                "race_test.cu:18", "Block (0, 0, 0), thread ("});
  check_caught(RUN(reverse<Bug::write_after_read>, 64), {"race: it ", "of shared array row"});
  check_caught(RUN(reverse<Bug::write_after_write>, 64),
               {"race: it wrote what", "of shared array row"});
}

TEST_CASE("a race names both lines") {
  NEEDS_OBSERVER
  const std::string error = error_of(RUN(sum<false>, 128));
  CAPTURE(error);
  // In the order of the numbers thread 0 has gone through the loop when thread 1 begins.
  CHECK(holds(error,
              "race: it wrote what other threads read at race_test.cu:34: 4 bytes at byte "
              "4 of the 512 bytes of shared array s (line 29)"));
  CHECK(holds(error, "Block (0, 0, 0), thread (1, 0, 0), race_test.cu:34."));
}

TEST_CASE("a barrier that a loop lacks") {
  NEEDS_OBSERVER
  check_passes(RUN(sum<true>, 128));
  check_caught(RUN(sum<false>, 128), {"race: it ", "of shared array s"});
  check_passes(RUN(tiles<true>, 64));
  check_caught(RUN(tiles<false>, 64), {"race: it ", "of shared array tile"});
}

TEST_CASE("threads of a warp are not in step without __syncwarp") {
  NEEDS_OBSERVER
  check_passes(RUN(warp_sum<true>, 32));
  check_caught(RUN(warp_sum<false>, 32), {"of shared array s", "race_test.cu:4"});
  check_passes(RUN(two_warps<true>, 64));
  check_caught(RUN(two_warps<false>, 64), {"put a __syncthreads() ", "of shared array s"});
}

// --- blocks

namespace {

template <
    int kWay>  // 0: each its own; 1: all write one; 2: one writes what others read; 3: the reverse
__global__ void blocks(float* x, float* out) {
  const unsigned b = blockIdx.x;
  if (threadIdx.x != 0) return;
  if (kWay == 0) out[b] = x[b];
  if (kWay == 1) out[0] = x[b];
  if (kWay == 2) out[b] = b == 0 ? x[1] : out[b - 1];
  if (kWay == 3) {
    out[b] = x[(b + 1) % 8];
    x[b] = 0;
  }
}

// All read one number; then one of the blocks that read it writes it.
template <bool kWrites>
__global__ void read_by_all(float* x, float* out) {
  out[blockIdx.x] = x[0];
  if (kWrites && blockIdx.x == 3) x[0] = 1;
}

template <auto kKernel>
void run_blocks() {
  const Array<float> x(counted<float>(8));
  const Array<float> out(counted<float>(8));
  launch<kKernel>({8, 32}, x, out);
}

}  // namespace

TEST_CASE("blocks of one launch: one address, one of them writing") {
  NEEDS_OBSERVER
  check_passes(run_blocks<blocks<0>>);
  check_caught(run_blocks<blocks<1>>,
               {"race: it wrote what block (", "wrote at race_test.cu:",
                "Blocks of a launch run in any order", "bytes of an allocation"});
  check_caught(run_blocks<blocks<2>>, {"race: it ", " what block ("});
  check_caught(run_blocks<blocks<3>>, {"race: it ", " what block ("});
  check_passes([] {
    const Array<float> x(counted<float>(8));
    const Array<float> out(std::size_t{8});
    launch<read_by_all<false>>({8, 1}, x, out);
  });
  check_caught(
      [] {
        const Array<float> x(counted<float>(8));
        const Array<float> out(std::size_t{8});
        launch<read_by_all<true>>({8, 1}, x, out);
      },
      {"race: it ", " what block ("});
}

TEST_CASE("launches of one stream are in order") {
  check_passes([] {
    const Array<float> x(counted<float>(8));
    const Array<float> out(counted<float>(8));
    for (int i = 0; i < 3; ++i) {
      launch<blocks<0>>({8, 32}, x, out);
      launch<blocks<0>>({8, 32}, out, x);
    }
    CHECK(x.values() == counted<float>(8));
  });
}

// --- atomic operations

namespace {

enum class Mix { atomic, with_write, with_read, write_first, barrier };

template <Mix kMix>
__global__ void count(int* n, int* out) {
  SHARED_ARRAY(int, all, [2]);
  const unsigned t = threadIdx.x;
  if (t == 0) all[0] = 0;
  __syncthreads();
  if (kMix == Mix::write_first && t == 40) all[0] = 1;
  atomicAdd(&all[0], 1);
  if (kMix == Mix::with_write && t == 7) all[0] = 5;
  if (kMix == Mix::with_read && all[0] > 1000) out[1] = 0;
  if (kMix != Mix::atomic) __syncthreads();
  if (kMix == Mix::barrier && t == 0) out[0] = all[0];
  atomicAdd(n, 1);
}

template <Mix kMix>
void run_count() {
  const Array<int> n(std::vector<int>{0});
  const Array<int> out(std::size_t{2});
  launch<count<kMix>>({1, 64}, n, out);
  CHECK(n.values()[0] == 64);
}

__global__ void add_up(int* n, const int* x) { atomicAdd(n, x[blockIdx.x]); }
__global__ void add_up_and_write(int* n, const int* x) {
  atomicMax(n, x[blockIdx.x]);
  if (blockIdx.x == 2) *n = 0;
}

}  // namespace

TEST_CASE("atomic operations are in order among themselves, and with nothing else") {
  check_passes(run_count<Mix::atomic>);
  check_passes(run_count<Mix::barrier>);
  NEEDS_OBSERVER
  check_caught(run_count<Mix::with_write>, {"race: it ", "of shared array all"});
  check_caught(run_count<Mix::with_read>, {"race: it ", "of shared array all"});
  check_caught(run_count<Mix::write_first>, {"race: it ", "of shared array all"});
}

TEST_CASE("atomic operations of several blocks") {
  const Array<int> x(counted<int>(16));
  over_schedules([&](std::uint64_t) {
    const Array<int> n(std::vector<int>{0});
    CHECK(launch<add_up>({16, 1}, n, x) == cudaSuccess);
    CHECK(n.values()[0] == 120);
  });
  NEEDS_OBSERVER
  check_caught(
      [&] {
        const Array<int> n(std::vector<int>{0});
        launch<add_up_and_write>({16, 1}, n, x);
      },
      {"race: it ", " what block ("});
}
