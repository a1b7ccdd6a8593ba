#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace moegrad::cuda {

inline constexpr unsigned kMostScanThreads = 1024;

// The sum over the threads of a block, kMostScanThreads at most, before this one; `total` of all.
__device__ inline std::int32_t sum_before(std::int32_t value, std::int32_t* total) {
  SHARED_ARRAY(std::int32_t, sums, [2][kMostScanThreads]);
  const unsigned t = threadIdx.x;
  int now = 0;
  sums[now][t] = value;
  __syncthreads();
  for (unsigned reach = 1; reach < blockDim.x; reach *= 2) {
    sums[1 - now][t] = sums[now][t] + (t >= reach ? sums[now][t - reach] : 0);
    now = 1 - now;
    __syncthreads();
  }
  *total = sums[now][blockDim.x - 1];
  const std::int32_t before = t == 0 ? 0 : sums[now][t - 1];
  __syncthreads();
  return before;
}

}  // namespace moegrad::cuda
