#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/emulator/types.h"

// What a thread of a kernel can do, for kernel.h. What touches memory is compiled in the library,
// where it is not taken for an access of the kernel.
namespace cuda_emulator {

// The same for a thread from its first instruction to its last: the compiler may keep the answers.
[[gnu::const]] uint3 thread_index();
[[gnu::const]] uint3 block_index();
[[gnu::const]] dim3 block_size();
[[gnu::const]] dim3 grid_size();

struct SharedSite {
  const char* name;
  std::size_t bytes, alignment;
  int line;
};
// The block's array of that declaration.
void* shared_array(const SharedSite* site);
void* dynamic_shared();

// --- barriers of the block: all its threads, at one line
void __syncthreads(Here here = Here::current());
int __syncthreads_count(int predicate, Here here = Here::current());
int __syncthreads_and(int predicate, Here here = Here::current());
int __syncthreads_or(int predicate, Here here = Here::current());

// --- collectives of the warp: all its 32 threads, at one line, with the full mask
void __syncwarp(unsigned mask = 0xffffffffU, Here here = Here::current());
int __any_sync(unsigned mask, int predicate, Here here = Here::current());
int __all_sync(unsigned mask, int predicate, Here here = Here::current());
unsigned __ballot_sync(unsigned mask, int predicate, Here here = Here::current());
unsigned match_any(unsigned mask, std::uint64_t value, const Here& here);
template <class T>
unsigned __match_any_sync(unsigned mask, T value, Here here = Here::current()) {
  static_assert(std::is_integral_v<T>);
  return match_any(mask, static_cast<std::uint64_t>(value), here);
}
int __reduce_add_sync(unsigned mask, int value, Here here = Here::current());
int __reduce_max_sync(unsigned mask, int value, Here here = Here::current());
int __reduce_min_sync(unsigned mask, int value, Here here = Here::current());
unsigned __reduce_add_sync(unsigned mask, unsigned value, Here here = Here::current());
unsigned __reduce_max_sync(unsigned mask, unsigned value, Here here = Here::current());
unsigned __reduce_min_sync(unsigned mask, unsigned value, Here here = Here::current());

enum class Shuffle { of, exclusive_or, up, down };
std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t value, unsigned lanes,
                      unsigned width, const Here& here);
template <class T>
T shuffled(Shuffle kind, unsigned mask, T value, unsigned lanes, int width, const Here& here) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  using Word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const auto given = __builtin_bit_cast(Word, value);
  return __builtin_bit_cast(
      T, static_cast<Word>(shuffle(kind, mask, given, lanes, static_cast<unsigned>(width), here)));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, Here here = Here::current()) {
  return shuffled(Shuffle::of, mask, value, static_cast<unsigned>(lane), width, here);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, Here here = Here::current()) {
  return shuffled(Shuffle::exclusive_or, mask, value, static_cast<unsigned>(lanes), width, here);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                 Here here = Here::current()) {
  return shuffled(Shuffle::up, mask, value, lanes, width, here);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                   Here here = Here::current()) {
  return shuffled(Shuffle::down, mask, value, lanes, width, here);
}

// --- atomic operations: of integers alone, whose sums do not depend on the order
#define CUDA_EMULATOR_ATOMICS(T) \
  T atomicAdd(T* at, T value);   \
  T atomicMax(T* at, T value);   \
  T atomicMin(T* at, T value);   \
  T atomicOr(T* at, T value);    \
  T atomicCAS(T* at, T expected, T value);
CUDA_EMULATOR_ATOMICS(int)
CUDA_EMULATOR_ATOMICS(unsigned)
CUDA_EMULATOR_ATOMICS(unsigned long long)
#undef CUDA_EMULATOR_ATOMICS

// --- asynchronous copies from global to shared memory, of 4, 8 or 16 bytes, the last `zeros` of
// them zero in place of what is read
void __pipeline_memcpy_async(void* shared, const void* global, std::size_t bytes,
                             std::size_t zeros = 0);
void __pipeline_commit();
void __pipeline_wait_prior(unsigned groups);

}  // namespace cuda_emulator
