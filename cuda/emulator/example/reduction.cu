// The sum of many numbers, as a GPU adds them; runs on any machine, and with nvcc on a GPU:
//   nvcc -std=c++20 -I. cuda/emulator/example/reduction.cu
#include <cstdio>
#include <vector>

#include "cuda/emulator/kernel.h"
#include "cuda/emulator/launch.h"

// part[b] = the sum of block b's share of x [n]; 256 threads a block.
__global__ void sum(const float* x, int n, float* part) {
  SHARED_ARRAY(float, of_thread, [256]);
  const unsigned t = threadIdx.x;
  float s = 0;
  for (unsigned i = blockIdx.x * 256 + t; i < static_cast<unsigned>(n); i += gridDim.x * 256) {
    s += x[i];
  }
  of_thread[t] = s;
  __syncthreads();
  for (unsigned half = 128; half > 0; half /= 2) {
    if (t < half) of_thread[t] += of_thread[t + half];
    __syncthreads();
  }
  if (t == 0) part[blockIdx.x] = of_thread[0];
}

int main() {
  constexpr int kNumbers = 10000, kBlocks = 8;
  const std::vector<float> numbers(kNumbers, 0.5F);
  float *x = nullptr, *part = nullptr;
  cudaMalloc(&x, kNumbers * sizeof(float));
  cudaMalloc(&part, kBlocks * sizeof(float));
  cudaMemcpy(x, numbers.data(), kNumbers * sizeof(float), cudaMemcpyHostToDevice);

  using cuda_emulator::launch;
  launch<sum>({.grid = kBlocks, .block = 256}, x, kNumbers, part);
  launch<sum>({.grid = 1, .block = 256}, part, kBlocks, x);

  float total = 0;
  cudaMemcpy(&total, x, sizeof total, cudaMemcpyDeviceToHost);
  std::printf("%g\n", total);
  cudaFree(part);
  cudaFree(x);
  return total == 5000.0F ? 0 : 1;
}
