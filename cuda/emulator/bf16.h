#pragma once

#include <cstdint>

#ifndef __CUDACC__
#include "cuda/emulator/types.h"
#endif

// The upper half of an f32, stored in 16 bits; for host and device, of both builds.
namespace cuda_emulator {

struct alignas(2) bf16 {
  std::uint16_t bits;

  bf16() = default;
  // To the nearest, of two equally near to the one whose last bit is 0; every NaN becomes 0x7fff.
  __host__ __device__ explicit bf16(float x) : bits(rounded(x)) {}
  __host__ __device__ explicit operator float() const {
    return __builtin_bit_cast(float, std::uint32_t{bits} << 16);
  }
  __host__ __device__ static bf16 of_bits(std::uint16_t bits) {
    bf16 x;
    x.bits = bits;
    return x;
  }

 private:
  __host__ __device__ static std::uint16_t rounded(float x) {
    const auto u = __builtin_bit_cast(std::uint32_t, x);
    if ((u & 0x7fffffffU) > 0x7f800000U) return 0x7fff;
    return static_cast<std::uint16_t>((u + 0x7fffU + (u >> 16 & 1U)) >> 16);
  }
};

// As registers of mma_bf16() hold two.
__host__ __device__ inline std::uint32_t pair(bf16 low, bf16 high) {
  return std::uint32_t{low.bits} | std::uint32_t{high.bits} << 16;
}

}  // namespace cuda_emulator
