#pragma once

// What kernels are written with, in both builds: by nvcc for a GPU, by g++ or clang for the
// emulator. It is CUDA as it is, but for UNROLL and ROLLED in place of #pragma unroll and unroll 1,
// and two macros in place of __shared__:
//
//   SHARED_ARRAY(float, tile, [32][33]);   // __shared__ float tile[32][33];
//   DYNAMIC_SHARED(float, row);            // extern __shared__ float row[];
//
// and launches by launch<kernel>(shape, arguments...), see launch.h.

#ifdef __CUDACC__

#include <cuda_pipeline.h>

#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

#define SHARED_ARRAY(TYPE, NAME, ...) __shared__ TYPE NAME __VA_ARGS__
#define DYNAMIC_SHARED(TYPE, NAME)                                  \
  extern __shared__ __align__(16) unsigned char emulator_dynamic[]; \
  TYPE* const NAME = reinterpret_cast<TYPE*>(emulator_dynamic)

#else

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/emulator/threads.h"

#define UNROLL
#define ROLLED

#ifdef CUDA_EMULATOR_OBSERVES
extern "C" {
void* memcpy(void*, const void*, std::size_t) noexcept __asm__("cuda_emulator_memcpy");
void* memmove(void*, const void*, std::size_t) noexcept __asm__("cuda_emulator_memmove");
void* memset(void*, int, std::size_t) noexcept __asm__("cuda_emulator_memset");
}
#endif

#define SHARED_ARRAY(TYPE, NAME, ...)                                                         \
  using NAME##_shared = TYPE __VA_ARGS__;                                                     \
  static constexpr ::cuda_emulator::SharedSite NAME##_site{#NAME, sizeof(NAME##_shared),      \
                                                           alignof(NAME##_shared), __LINE__}; \
  NAME##_shared& NAME = *static_cast<NAME##_shared*>(::cuda_emulator::shared_array(&NAME##_site))
#define DYNAMIC_SHARED(TYPE, NAME) \
  TYPE* const NAME = static_cast<TYPE*>(::cuda_emulator::dynamic_shared())

#define threadIdx (::cuda_emulator::thread_index())
#define blockIdx (::cuda_emulator::block_index())
#define blockDim (::cuda_emulator::block_size())
#define gridDim (::cuda_emulator::grid_size())
#define warpSize 32

using ::cuda_emulator::__all_sync;
using ::cuda_emulator::__any_sync;
using ::cuda_emulator::__ballot_sync;
using ::cuda_emulator::__match_any_sync;
using ::cuda_emulator::__pipeline_commit;
using ::cuda_emulator::__pipeline_memcpy_async;
using ::cuda_emulator::__pipeline_wait_prior;
using ::cuda_emulator::__reduce_add_sync;
using ::cuda_emulator::__reduce_max_sync;
using ::cuda_emulator::__reduce_min_sync;
using ::cuda_emulator::__shfl_down_sync;
using ::cuda_emulator::__shfl_sync;
using ::cuda_emulator::__shfl_up_sync;
using ::cuda_emulator::__shfl_xor_sync;
using ::cuda_emulator::__syncthreads;
using ::cuda_emulator::__syncthreads_and;
using ::cuda_emulator::__syncthreads_count;
using ::cuda_emulator::__syncthreads_or;
using ::cuda_emulator::__syncwarp;
using ::cuda_emulator::atomicAdd;
using ::cuda_emulator::atomicCAS;
using ::cuda_emulator::atomicMax;
using ::cuda_emulator::atomicMin;
using ::cuda_emulator::atomicOr;

// Of float and of double, as nvcc has them; C has those of double alone.
using std::fabs;
using std::fma;
using std::fmax;
using std::fmin;

template <class T>
inline T __ldg(const T* at) {
  return *at;
}
inline std::uint64_t __umul64hi(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((Wide(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

#endif
