// The mixture: the plan of a dispatch, choices of experts, rows moved between tokens and slots.
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/scan.h"
#include "cuda/sort.h"

namespace moegrad {
namespace {

using cuda::Divisor;
using cuda::each;
using cuda::each_cell;
using cuda::each_warp;
using cuda::in;
using cuda::out;

// --- the plan, a stable counting sort in three steps: how often each chunk of choices uses each
// expert; the first slot of each expert and chunk; each choice to its slot. A chunk is gone through
// by one warp, 32 choices at a time.

constexpr std::int64_t kPlanChunk = 1024;

struct Choices {
  const std::int32_t* expert;
  std::int64_t count;
  int experts;

  __device__ std::int64_t end_of(std::int64_t chunk) const {
    const std::int64_t end = (chunk + 1) * kPlanChunk;
    return end < count ? end : count;
  }
};

// counts [chunks, E], zero before
void count_chunks(const Choices& choices, std::int64_t chunks, std::int64_t k, int operation,
                  cuda::FaultKind wrong, std::int32_t* counts) {
  cuda::Fault* const record = cuda::fault_record();
  const Divisor by_k(k);
  each_warp("plan", chunks, [=] __device__(std::int64_t chunk, unsigned lane) {
    std::int32_t* const mine = counts + chunk * choices.experts;
    for (std::int64_t i = chunk * kPlanChunk + lane; i < choices.end_of(chunk); i += cuda::kWarp) {
      const std::int32_t e = choices.expert[i];
      if (e < -1 || e >= choices.experts) {
        cuda::note_fault(record, {wrong, operation, e, -1, choices.experts, by_k.times(i), 0.0});
      } else if (e >= 0) {
        atomicAdd(mine + e, 1);
      }
    }
  });
}

// One block, a thread for each expert, or for each and one of `parts` of the chunks. next [chunks, E],
// counts before, becomes the first slot of each expert and chunk; offsets [E+1]. Where there is a
// fault, go = 0 and no expert has slots: who reads the plan stays within it.
__global__ void __launch_bounds__(cuda::kMostScanThreads)
    first_slots(std::int32_t* next, std::int64_t chunks, int experts, int parts, std::int64_t room,
                cuda::Fault* record, int operation, std::int32_t* offsets, std::int32_t* go) {
  const int t = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int width = threads / parts;  // experts at a time
  const int part = t / width;         // those of no part have no chunks
  const int column = t % width;
  const std::int64_t each = (chunks + parts - 1) / parts;
  const std::int64_t begin = part * each;
  const std::int64_t end = begin + each < chunks ? begin + each : chunks;
  const auto of_part = [=](int e) {
    std::int32_t sum = 0;
    for (std::int64_t c = begin; c < end && e < experts; ++c) sum += next[c * experts + e];
    return sum;
  };
  std::int32_t mine = 0;
  for (int e = column; e < experts; e += width) mine += of_part(e);
  std::int32_t used = 0;
  cuda::sum_before(mine, &used);
  SHARED_ARRAY(int, well, [1]);
  if (t == 0) {
    if (used > room) {
      cuda::note_fault(record, {cuda::kRoomFault, operation, used, 0, room, 0, 0.0});
    }
    well[0] = record->kind == cuda::kNoFault ? 1 : 0;
    *go = well[0];
  }
  __syncthreads();
  if (well[0] == 0) {
    for (int e = t; e <= experts; e += threads) offsets[e] = 0;
    return;
  }

  SHARED_ARRAY(std::int32_t, first_slot, [cuda::kMostScanThreads]);  // [parts, width]
  std::int32_t slots = 0;                                            // of the experts before
  for (int first = 0; first < experts; first += width) {
    const int e = first + column;
    first_slot[t] = of_part(e);
    __syncthreads();
    std::int32_t of_expert = 0;
    for (int p = 0; part == 0 && p < parts; ++p) {
      const std::int32_t count = first_slot[p * width + column];
      first_slot[p * width + column] = of_expert;
      of_expert += count;
    }
    std::int32_t total = 0;
    const std::int32_t before = slots + cuda::sum_before(of_expert, &total);
    slots += total;
    for (int p = 0; part == 0 && p < parts; ++p) first_slot[p * width + column] += before;
    __syncthreads();
    if (e < experts) {
      std::int32_t slot = first_slot[t];
      if (part == 0) offsets[e] = slot;
      for (std::int64_t c = begin; c < end; ++c) {
        const std::int32_t count = next[c * experts + e];
        next[c * experts + e] = slot;
        slot += count;
      }
    }
    __syncthreads();
  }
  if (t == 0) offsets[experts] = slots;
}

void fill_slots(const Choices& choices, std::int64_t chunks, std::int32_t* next,
                const std::int32_t* go, std::int32_t* order, std::int32_t* inverse) {
  each_warp("plan", chunks, [=] __device__(std::int64_t chunk, unsigned lane) {
    std::int32_t* const mine = next + chunk * choices.experts;
    const std::int64_t end = choices.end_of(chunk);
    const bool none = *go == 0;
    for (std::int64_t first = chunk * kPlanChunk; first < end; first += cuda::kWarp) {
      const std::int64_t i = first + lane;
      const std::int32_t e = i < end && !none ? choices.expert[i] : -1;
      const unsigned same = __match_any_sync(cuda::kAllLanes, e);
      const int before = __popc(same & ((1U << lane) - 1));
      const std::int32_t slot = e < 0 ? -1 : mine[e] + before;
      __syncwarp();
      if (e >= 0 && before == 0) mine[e] += __popc(same);
      __syncwarp();
      if (i >= end) continue;
      inverse[i] = slot;
      if (slot >= 0) order[slot] = static_cast<std::int32_t>(i);
    }
  });
}

void clear_rest(const std::int32_t* offsets, int experts, std::int64_t slots, std::int32_t* order) {
  each("plan", slots, [=] __device__(std::int64_t s) {
    if (s >= offsets[experts]) order[s] = -1;
  });
}

}  // namespace

void cuda::sort_choices(const char* operation, FaultKind wrong, const Tensor& selected,
                        std::int64_t experts, const Tensor& offsets, const Tensor& order,
                        const Tensor& inverse) {
  const Choices choices = {in<std::int32_t>(selected), selected.numel(), static_cast<int>(experts)};
  const std::int64_t chunks = pieces_of(choices.count, kPlanChunk);
  const Tensor counts = Tensor::zeros({chunks, experts}, DType::i32, Device::cuda);
  const Tensor no_fault = Tensor::empty({}, DType::i32, Device::cuda);
  std::int32_t* const next = out<std::int32_t>(counts);
  std::int32_t* const go = out<std::int32_t>(no_fault);
  count_chunks(choices, chunks, selected.size(1), number_of(operation), wrong, next);
  constexpr std::int64_t kMostParts = 32;
  const std::int64_t columns = std::clamp<std::int64_t>(experts, 1, kMostScanThreads);
  const std::int64_t parts = std::clamp<std::int64_t>(
      kMostScanThreads / columns, 1, std::clamp<std::int64_t>(chunks, 1, kMostParts));
  const auto threads = static_cast<unsigned>(pieces_of(columns * parts, kWarp)) * kWarp;
  run<first_slots>(operation, 1, threads, next, chunks, choices.experts, static_cast<int>(parts),
                   order.numel(), fault_record(), number_of(operation), out<std::int32_t>(offsets),
                   go);
  fill_slots(choices, chunks, next, go, out<std::int32_t>(order), out<std::int32_t>(inverse));
  clear_rest(in<std::int32_t>(offsets), choices.experts, order.numel(), out<std::int32_t>(order));
}

namespace {

// --- choices

void complement_as(const std::int32_t* selected, std::int64_t k, std::int64_t tokens,
                   std::int64_t experts, cuda::IndexCheck check, std::int32_t* to) {
  each_cell("complement", tokens, experts,
            [=] __device__(std::int64_t i, std::int64_t t, std::int64_t expert) {
              auto e = static_cast<std::int32_t>(expert);
              for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
                if (check(selected[j], j) && selected[j] == expert) e = -1;
              }
              to[i] = e;
            });
}

void count_as(const std::int32_t* selected, const std::int32_t* group, std::int64_t tokens,
              std::int64_t k, std::int64_t experts, cuda::IndexCheck check_expert,
              cuda::IndexCheck check_group, std::int32_t* to) {
  each_cell("count", tokens, k, [=] __device__(std::int64_t i, std::int64_t t, std::int64_t) {
    const std::int32_t e = selected[i];
    const std::int64_t g = group == nullptr ? 0 : group[t];
    if (check_expert(e, i) && check_group(g, t) && e >= 0) atomicAdd(to + g * experts + e, 1);
  });
}

void keep_first_as(const std::int32_t* selected, const std::int32_t* offsets,
                   const std::int32_t* inverse, std::int64_t capacity, std::int64_t choices,
                   cuda::IndexCheck check, std::int32_t* to) {
  each("keep_first", choices, [=] __device__(std::int64_t i) {
    const std::int32_t e = selected[i];
    to[i] = check(e, i) && e >= 0 && inverse[i] - offsets[e] < capacity ? e : -1;
  });
}

// --- rows

template <class T>
void tokens_to_slots_as(const T* x, const T* weights, const std::int32_t* order, std::int64_t k,
                        std::int64_t slots, std::int64_t cols, cuda::IndexCheck check, T* to) {
  const Divisor by_k(k);
  each_cell("tokens_to_slots", slots, cols,
            [=] __device__(std::int64_t i, std::int64_t slot, std::int64_t col) {
              const std::int32_t choice = order[slot];
              if (!check(choice, slot) || choice < 0) {
                to[i] = T(0);
                return;
              }
              const T value = x[by_k.times(choice) * cols + col];
              to[i] = weights == nullptr ? value : value * weights[choice];
            });
}

// A sum of at most so many is left to the type itself.
constexpr std::int64_t kShortSum = 256;

template <class Sum, class T>
void slots_to_tokens_as(const T* h, const T* weights, const std::int32_t* inverse, std::int64_t k,
                        std::int64_t tokens, std::int64_t cols, cuda::IndexCheck check, T* to) {
  each_cell("slots_to_tokens", tokens, cols,
            [=] __device__(std::int64_t i, std::int64_t t, std::int64_t col) {
              Sum sum(0);
              for (std::int64_t j = t * k; j < (t + 1) * k; ++j) {
                const std::int32_t slot = inverse[j];
                if (!check(slot, j) || slot < 0) continue;
                const T row = h[slot * cols + col];
                sum += static_cast<Sum>(weights == nullptr ? row : row * weights[j]);
              }
              to[i] = static_cast<T>(sum);
            });
}

template <class T>
void slot_products_as(const T* dy, const T* h, const std::int32_t* inverse, std::int64_t k,
                      std::int64_t cols, std::int64_t choices, cuda::IndexCheck check, T* to) {
  const Divisor by_k(k);
  each_warp("slot_products", choices, [=] __device__(std::int64_t i, unsigned lane) {
    const std::int32_t slot = inverse[i];
    const std::int64_t token = by_k.times(i);
    double sum = 0.0;
    if (check(slot, i) && slot >= 0) {
      for (std::int64_t c = lane; c < cols; c += cuda::kWarp) {
        sum += static_cast<double>(dy[token * cols + c] * h[slot * cols + c]);
      }
    }
    sum = cuda::warp_sum(sum);
    if (lane == 0) to[i] = static_cast<T>(sum);
  });
}

}  // namespace

void CudaKernels::plan(const Tensor& selected, std::int64_t experts, const Tensor& offsets,
                       const Tensor& order, const Tensor& inverse) {
  cuda::sort_choices("plan", cuda::kChoiceFault, selected, experts, offsets, order, inverse);
}

void CudaKernels::complement(const Tensor& selected, const Tensor& t) {
  const std::int64_t experts = t.size(1);
  complement_as(in<std::int32_t>(selected), selected.size(1), t.size(0), experts,
                cuda::indices("complement", -1, experts), out<std::int32_t>(t));
}

void CudaKernels::count(const Tensor& selected, const Tensor& group, const Tensor& t) {
  const std::int64_t tokens = selected.size(0);
  fill(0.0, t);
  count_as(in<std::int32_t>(selected), in<std::int32_t>(group), tokens,
           selected.numel() / std::max<std::int64_t>(1, tokens), t.size(1),
           cuda::indices("count", -1, t.size(1)), cuda::indices("count", 0, t.size(0)),
           out<std::int32_t>(t));
}

void CudaKernels::keep_first(const Tensor& selected, const Tensor& offsets, const Tensor& inverse,
                             std::int64_t capacity, const Tensor& t) {
  keep_first_as(in<std::int32_t>(selected), in<std::int32_t>(offsets), in<std::int32_t>(inverse),
                capacity, selected.numel(), cuda::indices("keep_first", -1, offsets.numel() - 1),
                out<std::int32_t>(t));
}

void CudaKernels::tokens_to_slots(const Tensor& x, const Tensor& weights, const Tensor& order,
                                  std::int64_t k, const Tensor& t) {
  const cuda::IndexCheck check = cuda::indices("tokens_to_slots", -1, x.size(0) * k);
  with_floating(t.dtype(), "tokens_to_slots", [&](auto zero) {
    using T = decltype(zero);
    tokens_to_slots_as(in<T>(x), in<T>(weights), in<std::int32_t>(order), k, t.size(0), t.size(1),
                       check, out<T>(t));
  });
}

void CudaKernels::slots_to_tokens(const Tensor& h, const Tensor& weights, const Tensor& inverse,
                                  const Tensor& t) {
  const std::int64_t k = inverse.size(1);
  const cuda::IndexCheck check = cuda::indices("slots_to_tokens", -1, h.size(0));
  with_floating(t.dtype(), "slots_to_tokens", [&](auto zero) {
    using T = decltype(zero);
    const auto add = k <= kShortSum ? slots_to_tokens_as<T, T> : slots_to_tokens_as<double, T>;
    add(in<T>(h), in<T>(weights), in<std::int32_t>(inverse), k, t.size(0), t.size(1), check,
        out<T>(t));
  });
}

void CudaKernels::slot_products(const Tensor& dy, const Tensor& h, const Tensor& inverse,
                                const Tensor& t) {
  const cuda::IndexCheck check = cuda::indices("slot_products", -1, h.size(0));
  with_floating(t.dtype(), "slot_products", [&](auto zero) {
    using T = decltype(zero);
    slot_products_as(in<T>(dy), in<T>(h), in<std::int32_t>(inverse), inverse.size(1), dy.size(1),
                     inverse.numel(), check, out<T>(t));
  });
}

}  // namespace moegrad
