// Results that depend on the order of threads and blocks.
#include <algorithm>
#include <set>

#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

// The indices of numbers that are not negative, wherever there is room: whoever comes first.
__global__ void compact_first_come(const int* x, int* n, int* out) {
  const int i = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
  if (x[i] >= 0) out[atomicAdd(n, 1)] = i;
}
// In the order of the indices.
__global__ void compact_in_order(const int* x, int* n, int* out) {
  const int i = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
  int before = 0;
  for (int j = 0; j < i; ++j) before += x[j] >= 0 ? 1 : 0;
  if (x[i] >= 0) out[before] = i;
  if (x[i] >= 0) atomicAdd(n, 1);
}
// Sums of floats depend on the order; an atomic one is built from atomicCAS.
__global__ void float_sum(const int* x, int* total, int*) {
  const auto i = blockIdx.x * 32 + threadIdx.x;
  int seen = *total;
  for (;;) {
    const float sum =
        __uint_as_float(static_cast<unsigned>(seen)) + 1.0F / static_cast<float>(i + 1);
    const int before = atomicCAS(total, seen, static_cast<int>(__float_as_uint(sum)));
    if (before == seen) return;
    seen = before;
  }
  (void)x;
}

template <auto kKernel>
std::set<std::vector<int>> results() {
  std::set<std::vector<int>> all;
  std::vector<int> values = counted<int>(96);
  for (std::size_t i = 0; i < 96; i += 3) values[i] = -1;
  over_schedules([&](std::uint64_t) {
    std::vector<int> once;
    for (int repeat = 0; repeat < 2; ++repeat) {  // a schedule can be repeated
      const Array<int> x(values);
      const Array<int> n(std::vector<int>{0});
      const Array<int> out(std::vector<int>(96, 0));
      Settings blind = settings();
      blind.observed = false;  // a plain read beside atomic operations
      const With with(blind);
      launch<kKernel>({3, 32}, x, n, out);
      std::vector<int> result = out.values();
      result.push_back(n.values()[0]);
      if (repeat == 0) once = result;
      CHECK(result == once);
    }
    all.insert(once);
  });
  return all;
}

}  // namespace

TEST_CASE("another order gives another result, or the same") {
  CHECK(results<compact_first_come>().size() == kSchedules);
  CHECK(results<compact_in_order>().size() == 1);
  CHECK(results<float_sum>().size() > 1);
}

namespace {

__global__ void orders(int* n, int* of_blocks, int* of_threads) {
  if (threadIdx.x == 0) of_blocks[atomicAdd(n, 1)] = static_cast<int>(blockIdx.x);
  __syncthreads();
  if (blockIdx.x == 0) of_threads[atomicAdd(n + 1, 1)] = static_cast<int>(threadIdx.x);
}

}  // namespace

TEST_CASE("schedules are permutations of blocks and of threads") {
  over_schedules([](std::uint64_t schedule) {
    const Array<int> n(std::vector<int>{0, 0});
    const Array<int> of_blocks(std::size_t{50});
    const Array<int> of_threads(std::size_t{128});
    launch<orders>({50, 128}, n, of_blocks, of_threads);
    for (std::vector<int> order : {of_blocks.values(), of_threads.values()}) {
      const std::vector<int> sorted = counted<int>(order.size());
      CHECK((order == sorted) == (schedule == 0));
      std::sort(order.begin(), order.end());
      CHECK(order == sorted);
    }
  });
}
