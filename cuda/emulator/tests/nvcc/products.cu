// What nvcc must make of kernel.h, mma.h and launch.h; see check.cmake.
#include "cuda/emulator/bf16.h"
#include "cuda/emulator/kernel.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/mma.h"

using namespace cuda_emulator;

__global__ void tf32(const float* a, const float* b, float* d) {
  const unsigned t = threadIdx.x;
  const float a_part[] = {to_tf32(a[t]), a[t + 32], a[t + 64], a[t + 96]};
  const float b_part[] = {b[t], b[t + 32]};
  float d_part[] = {0, 0, 0, 0};
  mma_tf32(d_part, a_part, b_part);
  for (unsigned i = 0; i < 4; ++i) d[t + 32 * i] = d_part[i];
}

__global__ void bf(const bf16* a, const bf16* b, float* d) {
  const unsigned t = threadIdx.x;
  const std::uint32_t a_part[] = {pair(a[t], a[t + 1]), 0, 0, pair(bf16(1.5F), a[t + 2])};
  const std::uint32_t b_part[] = {pair(b[t], b[t + 1]), 0};
  float d_part[] = {0, 0, 0, 0};
  mma_bf16(d_part, a_part, b_part);
  for (unsigned i = 0; i < 4; ++i) d[t + 32 * i] = d_part[i];
}

__global__ void f64(const double* a, const double* b, double* d) {
  const unsigned t = threadIdx.x;
  double d_part[] = {0, 0};
  mma_f64(d_part, a[t], b[t]);
  d[t] = d_part[0] + d_part[1];
}

__global__ void copies(const float4* x, float* out) {
  SHARED_ARRAY(float4, tile, [32]);
  DYNAMIC_SHARED(float, row);
  const unsigned t = threadIdx.x;
  __pipeline_memcpy_async(&tile[t], &x[t], 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  row[t] = __shfl_xor_sync(0xffffffffU, tile[t].x, 1);
  __syncthreads();
  out[t] = row[31 - t];
}

cudaError_t run(const float4* x, float* out) {
  return launch<copies>({.grid = 1, .block = 32, .shared = 128}, x, out);
}
