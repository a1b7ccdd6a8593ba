// The collectives of a warp and the atomic operations.
#include <algorithm>
#include <array>

#include "cuda/emulator/block.h"
#include "cuda/emulator/observer.h"
#include "cuda/emulator/threads.h"

namespace cuda_emulator {
namespace {

unsigned ballot(const char* what, unsigned mask, int predicate, const Here& here) {
  const Lanes& lanes = exchange(what, mask, predicate != 0 ? 1 : 0, here);
  unsigned set = 0;
  for (std::size_t i = 0; i < 32; ++i) set |= static_cast<unsigned>(lanes[i]) << i;
  return set;
}

template <class T, class F>
T reduced(const char* what, unsigned mask, T value, const Here& here, F&& f) {
  const Inside inside;
  const Lanes& lanes = exchange(what, mask, static_cast<unsigned>(value), here);
  T total = static_cast<T>(lanes[0]);
  for (std::size_t i = 1; i < 32; ++i) total = f(total, static_cast<T>(lanes[i]));
  return total;
}

template <class T, class F>
T atomically(T* at, const void* code, F&& f) {
  const Inside inside;
  if (reinterpret_cast<std::uintptr_t>(at) % sizeof(T) != 0) {
    die("misaligned: an atomic operation on an address that is no multiple of " +
            std::to_string(sizeof(T)) + ". Take one that is",
        observer::line_of(code));
  }
  if (observer::observing()) observer::touch(at, sizeof(T), observer::Access::atomic, code);
  const T before = *at;
  *at = f(before);
  return before;
}

}  // namespace

void __syncwarp(unsigned mask, Here here) {
  const Inside inside;
  exchange("__syncwarp", mask, 0, here);
}
int __any_sync(unsigned mask, int predicate, Here here) {
  const Inside inside;
  return ballot("__any_sync", mask, predicate, here) != 0 ? 1 : 0;
}
int __all_sync(unsigned mask, int predicate, Here here) {
  const Inside inside;
  return ballot("__all_sync", mask, predicate, here) == 0xffffffffU ? 1 : 0;
}
unsigned __ballot_sync(unsigned mask, int predicate, Here here) {
  const Inside inside;
  return ballot("__ballot_sync", mask, predicate, here);
}
unsigned match_any(unsigned mask, std::uint64_t value, const Here& here) {
  const Inside inside;
  const Lanes& lanes = exchange("__match_any_sync", mask, value, here);
  unsigned set = 0;
  for (std::size_t i = 0; i < 32; ++i) set |= (lanes[i] == value ? 1U : 0U) << i;
  return set;
}

#define REDUCTIONS(T)                                                             \
  T __reduce_add_sync(unsigned mask, T value, Here here) {                        \
    return reduced("__reduce_add_sync", mask, value, here, [](T a, T b) {         \
      return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); \
    });                                                                           \
  }                                                                               \
  T __reduce_max_sync(unsigned mask, T value, Here here) {                        \
    return reduced("__reduce_max_sync", mask, value, here,                        \
                   [](T a, T b) { return std::max(a, b); });                      \
  }                                                                               \
  T __reduce_min_sync(unsigned mask, T value, Here here) {                        \
    return reduced("__reduce_min_sync", mask, value, here,                        \
                   [](T a, T b) { return std::min(a, b); });                      \
  }
REDUCTIONS(int)
REDUCTIONS(unsigned)
#undef REDUCTIONS

std::uint64_t shuffle(Shuffle kind, unsigned mask, std::uint64_t value, unsigned lanes,
                      unsigned width, const Here& here) {
  const Inside inside;
  constexpr const char* kNames[] = {"__shfl_sync", "__shfl_xor_sync", "__shfl_up_sync",
                                    "__shfl_down_sync"};
  const unsigned me = lane();
  if (width == 0 || width > 32 || (width & (width - 1)) != 0) {
    die(std::string(kNames[static_cast<int>(kind)]) + " of width " + std::to_string(width) +
        ". Use a power of two up to 32");
  }
  const Lanes& all = exchange(kNames[static_cast<int>(kind)], mask, value, here);
  const unsigned base = me / width * width;
  unsigned from = me;
  switch (kind) {
    case Shuffle::of:
      from = base + lanes % width;
      break;
    case Shuffle::exclusive_or:
      if (((me ^ lanes) / width) <= me / width) from = me ^ lanes;
      break;
    case Shuffle::up:
      if (me - base >= lanes) from = me - lanes;
      break;
    case Shuffle::down:
      if (me - base + lanes < width) from = me + lanes;
      break;
  }
  return all[from];
}

#define ATOMICS(T)                                                                          \
  T atomicAdd(T* at, T value) {                                                             \
    return atomically(at, __builtin_return_address(0), [&](T old) {                         \
      return static_cast<T>(static_cast<unsigned long long>(old) +                          \
                            static_cast<unsigned long long>(value));                        \
    });                                                                                     \
  }                                                                                         \
  T atomicMax(T* at, T value) {                                                             \
    return atomically(at, __builtin_return_address(0),                                      \
                      [&](T old) { return std::max(old, value); });                         \
  }                                                                                         \
  T atomicMin(T* at, T value) {                                                             \
    return atomically(at, __builtin_return_address(0),                                      \
                      [&](T old) { return std::min(old, value); });                         \
  }                                                                                         \
  T atomicOr(T* at, T value) {                                                              \
    return atomically(at, __builtin_return_address(0), [&](T old) { return old | value; }); \
  }                                                                                         \
  T atomicCAS(T* at, T expected, T value) {                                                 \
    return atomically(at, __builtin_return_address(0),                                      \
                      [&](T old) { return old == expected ? value : old; });                \
  }
ATOMICS(int)
ATOMICS(unsigned)
ATOMICS(unsigned long long)
#undef ATOMICS

}  // namespace cuda_emulator
