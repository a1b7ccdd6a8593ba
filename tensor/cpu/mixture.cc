// The mixture: the plan of a dispatch, and rows moved between tokens and slots.

#include <numeric>

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"

namespace moegrad {
namespace {

constexpr std::int64_t kPlanChunk = 8192;  // choices that are counted together

}  // namespace

void CpuKernels::plan(const Tensor& selected, std::int64_t experts, const Tensor& offsets,
                      const Tensor& order, const Tensor& inverse) {
  const std::int64_t choices = selected.numel();
  const std::int32_t* const expert = selected.data<std::int32_t>();
  if (const auto outside = cpu::index_outside(expert, choices, -1, experts)) {
    const std::int64_t choice = std::find(expert, expert + choices, *outside) - expert;
    fail("plan", "token {} chooses expert {} of {}. Use 0 to {}, or -1 for none.",
         choice / selected.size(1), *outside, experts, experts - 1);
  }
  // First pass: how often each chunk of choices uses each expert.
  const std::int64_t chunks = (choices + kPlanChunk - 1) / kPlanChunk;
  const Tensor counts = Tensor::zeros({chunks, experts}, DType::i32, Device::cpu);
  std::int32_t* const next = counts.write<std::int32_t>();
  cpu::parallel_for(choices, kPlanChunk, [=](std::int64_t begin, std::int64_t end) {
    std::int32_t* const mine = next + begin / kPlanChunk * experts;
    for (std::int64_t i = begin; i < end; ++i) {
      if (expert[i] >= 0) ++mine[expert[i]];
    }
  });

  const std::int64_t used = std::accumulate(next, next + chunks * experts, std::int64_t{0});
  if (used > order.numel()) {
    fail("plan", "{} choices, and room for {}. Make room for the most that there can be.", used,
         order.numel());
  }
  std::int32_t* const bounds = offsets.write<std::int32_t>();
  std::int32_t* const by_slot = order.write<std::int32_t>();
  std::int32_t* const slot_of = inverse.write<std::int32_t>();
  std::fill(by_slot + used, by_slot + order.numel(), -1);

  // Expert by expert, chunk by chunk: the first slot of each.
  std::int32_t slot = 0;
  for (std::int64_t e = 0; e < experts; ++e) {
    bounds[e] = slot;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const std::int32_t count = next[c * experts + e];
      next[c * experts + e] = slot;
      slot += count;
    }
  }
  bounds[experts] = slot;

  // Second pass: every choice to its slot, in order within its chunk.
  cpu::parallel_for(choices, kPlanChunk, [=](std::int64_t begin, std::int64_t end) {
    std::int32_t* const mine = next + begin / kPlanChunk * experts;
    for (std::int64_t i = begin; i < end; ++i) {
      if (expert[i] < 0) {
        slot_of[i] = -1;
      } else {
        const std::int32_t at = mine[expert[i]]++;
        slot_of[i] = at;
        by_slot[at] = static_cast<std::int32_t>(i);
      }
    }
  });
}

void CpuKernels::complement(const Tensor& selected, const Tensor& out) {
  const std::int64_t experts = out.size(1);
  const std::int64_t k = selected.size(1);
  const std::int32_t* const ids = selected.data<std::int32_t>();
  cpu::require_indices("complement", ids, selected.numel(), -1, experts);
  std::int32_t* const to = out.write<std::int32_t>();
  const std::int64_t grain = cpu::items_per_grain(experts + k);
  cpu::parallel_for(out.size(0), grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::int32_t* const row = to + t * experts;
      std::iota(row, row + experts, 0);
      for (std::int64_t i = t * k; i < (t + 1) * k; ++i) {
        if (ids[i] >= 0) row[ids[i]] = -1;
      }
    }
  });
}

void CpuKernels::tokens_to_slots(const Tensor& x, const Tensor& weights, const Tensor& order,
                                 std::int64_t k, const Tensor& out) {
  const std::int64_t slots = out.size(0);
  const std::int64_t cols = out.size(1);
  const std::int32_t* const choice = order.data<std::int32_t>();
  cpu::require_indices("tokens_to_slots", choice, slots, -1, x.size(0) * k);
  with_floating(out.dtype(), "tokens_to_slots", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    const T* const weight = cpu::data_or_null<T>(weights);
    T* const to = out.write<T>();
    cpu::parallel_for(slots, cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t s = begin; s < end; ++s) {
        T* const slot = to + s * cols;
        if (choice[s] < 0) {
          std::fill(slot, slot + cols, T(0));
          continue;
        }
        const T* const row = from + choice[s] / k * cols;
        if (weight == nullptr) {
          std::copy(row, row + cols, slot);
        } else {
          const T w = weight[choice[s]];
          for (std::int64_t c = 0; c < cols; ++c) slot[c] = row[c] * w;
        }
      }
    });
  });
}

namespace {

// Asks for the rows of k slots.
template <class T>
void fetch_rows(const T* h, std::int64_t cols, const std::int32_t* slots, std::int64_t k) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  for (std::int64_t j = 0; j < k; ++j) {
    if (slots[j] < 0) continue;
    for (std::int64_t c = 0; c < cols; c += kLine) __builtin_prefetch(h + slots[j] * cols + c);
  }
}

// to [cols] = 0 + sum over j of w[j] h[slots[j]], in this order; w null: 1
template <class T>
void add_rows(const T* h, std::int64_t cols, const std::int32_t* slots, const T* w, std::int64_t k,
              T* __restrict to) {
  bool started = false;
  for (std::int64_t j = 0; j < k; ++j) {
    if (slots[j] < 0) continue;
    const T* const row = h + slots[j] * cols;
    const T factor = w == nullptr ? T(1) : w[j];
    if (started) {
      for (std::int64_t c = 0; c < cols; ++c) to[c] += row[c] * factor;
    } else {
      for (std::int64_t c = 0; c < cols; ++c) to[c] = T(0) + row[c] * factor;
      started = true;
    }
  }
  if (!started) std::fill(to, to + cols, T(0));
}

// The same for many j.
template <class T>
void add_many_rows(const T* h, std::int64_t cols, const std::int32_t* slots, const T* w,
                   std::int64_t k, T* to) {
  cpu::LongSums<T> sums(to, cols, k);
  for (std::int64_t j = 0; j < k; ++j) {
    if (slots[j] < 0) continue;
    const T* const row = h + slots[j] * cols;
    const T factor = w == nullptr ? T(1) : w[j];
    for (std::int64_t c = 0; c < cols; ++c) to[c] += row[c] * factor;
    sums.added();
  }
  sums.finish();
}

}  // namespace

void CpuKernels::slots_to_tokens(const Tensor& h, const Tensor& weights, const Tensor& inverse,
                                 const Tensor& out) {
  const std::int64_t tokens = out.size(0);
  const std::int64_t cols = out.size(1);
  const std::int64_t k = inverse.size(1);
  const std::int32_t* const slot_of = inverse.data<std::int32_t>();
  cpu::require_indices("slots_to_tokens", slot_of, tokens * k, -1, h.size(0));
  with_floating(out.dtype(), "slots_to_tokens", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = h.data<T>();
    const T* const weight = cpu::data_or_null<T>(weights);
    T* const to = out.write<T>();
    const auto of_token = [=](std::int64_t t) {
      return weight == nullptr ? weight : weight + t * k;
    };
    const std::int64_t grain = cpu::items_per_grain(cols * (k + 1));
    if (k > cpu::kShortSum) {
      cpu::parallel_for(tokens, grain, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; ++t) {
          add_many_rows(from, cols, slot_of + t * k, of_token(t), k, to + t * cols);
        }
      });
      return;
    }
    cpu::parallel_for(tokens, grain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        if (t + 1 < end) fetch_rows(from, cols, slot_of + (t + 1) * k, k);
        add_rows(from, cols, slot_of + t * k, of_token(t), k, to + t * cols);
      }
    });
  });
}

void CpuKernels::slot_products(const Tensor& dy, const Tensor& h, const Tensor& inverse,
                               const Tensor& out) {
  const std::int64_t cols = dy.size(1);
  const std::int64_t k = inverse.size(1);
  const std::int32_t* const slot_of = inverse.data<std::int32_t>();
  cpu::require_indices("slot_products", slot_of, inverse.numel(), -1, h.size(0));
  with_floating(out.dtype(), "slot_products", [&](auto zero) {
    using T = decltype(zero);
    const T* const dy_data = dy.data<T>();
    const T* const h_data = h.data<T>();
    T* const to = out.write<T>();
    cpu::parallel_for(
        inverse.numel(), cpu::items_per_grain(2 * cols), [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t choice = begin; choice < end; ++choice) {
            if (slot_of[choice] < 0) {
              to[choice] = T(0);
              continue;
            }
            const T* const token = dy_data + choice / k * cols;
            const T* const slot = h_data + slot_of[choice] * cols;
            to[choice] = cpu::lane_sum<T>(cols, [=](std::int64_t c) { return token[c] * slot[c]; });
          }
        });
  });
}

}  // namespace moegrad
