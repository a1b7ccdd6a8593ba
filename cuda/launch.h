#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "cuda/divisor.h"
#include "cuda/emulator/kernel.h"
#include "cuda/emulator/launch.h"
#include "cuda/fault.h"
#include "cuda/stream.h"
#include "tensor/tensor.h"

// How the kernels of this folder are launched. Kernels get pointers and numbers alone.
namespace moegrad::cuda {

// The elements of a tensor of this device; null where it is undefined.
template <class T>
const T* in(const Tensor& t) {
  if (!t.defined()) return nullptr;
  require_here(t, dtype_of<T>);
  return reinterpret_cast<const T*>(t.place());
}
template <class T>
T* out(const Tensor& t) {
  if (!t.defined()) return nullptr;
  require_here(t, dtype_of<T>);
  return reinterpret_cast<T*>(t.place_to_write());
}

// The same for elements that are moved without looking at them, T being as large as one.
template <class T>
const T* bits(const Tensor& t) {
  require_here(t, t.dtype());
  return reinterpret_cast<const T*>(t.place());
}
template <class T>
T* bits_to_write(const Tensor& t) {
  require_here(t, t.dtype());
  return reinterpret_cast<T*>(t.place_to_write());
}

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;
inline constexpr unsigned kThreads = 256;             // of a block, where nothing else is said
inline constexpr std::int64_t kMostBlocks = 1 << 20;  // of a grid that strides

// Launches a kernel on the stream; an Error of `operation` where the launch fails. With `shared`
// bytes of dynamic shared memory, or none.
template <auto kKernel, class... A>
void run_with(std::size_t shared, const char* operation, std::int64_t blocks, unsigned threads,
              A&&... a) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<std::int32_t>::max()) {
    fail(operation, "{} blocks, and a launch has 2147483647 at most. Split the tensors.", blocks);
  }
  note_launch(operation);
  const cuda_emulator::Shape shape = {.grid = static_cast<unsigned>(blocks),
                                      .block = threads,
                                      .shared = shared,
                                      .stream = stream()};
  require(cuda_emulator::launch<kKernel>(shape, std::forward<A>(a)...), operation);
}
template <auto kKernel, class... A>
void run(const char* operation, std::int64_t blocks, unsigned threads, A&&... a) {
  run_with<kKernel>(0, operation, blocks, threads, std::forward<A>(a)...);
}

inline std::int64_t pieces_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

template <class F>
__global__ void each_kernel(std::int64_t n, F f) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  ROLLED  // nearly always one round: unrolled, it would begin with a division for their number
      for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step)
          f(i);
}
// f(i) for i in [0, n), a thread each.
template <class F>
void each(const char* operation, std::int64_t n, const F& f) {
  const unsigned threads = n <= kThreads / 2 ? kWarp : kThreads;
  run<each_kernel<F>>(operation, std::min(kMostBlocks, pieces_of(n, threads)), threads, n, f);
}

// f(i, row, col) for element i of [rows, cols], a thread each.
template <class F>
void each_cell(const char* operation, std::int64_t rows, std::int64_t cols, const F& f) {
  const Divisor width(cols);
  each(operation, rows * cols, [=] __device__(std::int64_t i) {
    const Quotient at = width.of(i);
    f(i, at.times, at.rest);
  });
}

template <class F>
__global__ void each_warp_kernel(std::int64_t n, F f) {
  const unsigned warps = blockDim.x / kWarp;
  const std::int64_t step = std::int64_t{gridDim.x} * warps;
  ROLLED
  for (std::int64_t i = std::int64_t{blockIdx.x} * warps + threadIdx.x / kWarp; i < n; i += step) {
    f(i, threadIdx.x % kWarp);
  }
}
// f(i, lane) for i in [0, n), a warp each.
template <class F>
void each_warp(const char* operation, std::int64_t n, const F& f) {
  const auto warps = static_cast<unsigned>(std::min<std::int64_t>(n, 4));  // of a block
  if (n == 0) return;
  run<each_warp_kernel<F>>(operation, std::min(kMostBlocks, pieces_of(n, warps)), warps * kWarp, n,
                           f);
}

// f(a, b, ...) of what the lanes hold, in a fixed order; the same in every lane.
template <class T, class F>
__device__ T warp_fold(T value, F f) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = f(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}
template <class T>
__device__ T warp_sum(T value) {
  return warp_fold(value, [](T a, T b) { return a + b; });
}

// Only the first one is kept.
__device__ inline void note_fault(Fault* record, const Fault& fault) {
  if (atomicCAS(&record->kind, static_cast<int>(kNoFault), fault.kind) != kNoFault) return;
  record->operation = fault.operation;
  record->value = fault.value;
  record->low = fault.low;
  record->limit = fault.limit;
  record->place = fault.place;
  record->number = fault.number;
}

// Whether an index lies in [low, limit); where it does not there is a fault.
struct IndexCheck {
  Fault* record;
  int operation;
  std::int64_t low, limit;

  __device__ bool operator()(std::int64_t index, std::int64_t place) const {
    if (index >= low && index < limit) return true;
    note_fault(record, {kIndexFault, operation, index, low, limit, place, 0.0});
    return false;
  }
};

// The check of an operation's indices.
inline IndexCheck indices(const char* operation, std::int64_t low, std::int64_t limit) {
  return {fault_record(), number_of(operation), low, limit};
}

}  // namespace moegrad::cuda
