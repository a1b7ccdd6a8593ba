// Choices of experts: how many fell on each, and which of them find room.

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {

void CpuKernels::count(const Tensor& selected, const Tensor& group, const Tensor& out) {
  const std::int64_t experts = out.size(1);
  const std::int64_t tokens = selected.size(0);
  const std::int64_t k = selected.numel() / std::max<std::int64_t>(1, tokens);
  const std::int32_t* const expert = selected.data<std::int32_t>();
  const std::int32_t* const group_of = cpu::data_or_null<std::int32_t>(group);
  cpu::require_indices("count", expert, selected.numel(), -1, experts);
  if (group_of != nullptr) cpu::require_indices("count", group_of, tokens, 0, out.size(0));
  std::int32_t* const counts = out.write<std::int32_t>();
  std::fill(counts, counts + out.numel(), 0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::int32_t* const mine = counts + (group_of == nullptr ? 0 : group_of[t]) * experts;
    for (std::int64_t i = t * k; i < (t + 1) * k; ++i) {
      if (expert[i] >= 0) ++mine[expert[i]];
    }
  }
}

void CpuKernels::keep_first(const Tensor& selected, const Tensor& offsets, const Tensor& inverse,
                            std::int64_t capacity, const Tensor& out) {
  const std::int32_t* const expert = selected.data<std::int32_t>();
  const std::int32_t* const first = offsets.data<std::int32_t>();
  const std::int32_t* const slot = inverse.data<std::int32_t>();
  const std::int64_t choices = selected.numel();
  cpu::require_indices("keep_first", expert, choices, -1, offsets.numel() - 1);
  std::int32_t* const to = out.write<std::int32_t>();
  cpu::parallel_for(choices, cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t e = expert[i];
      to[i] = e >= 0 && slot[i] - first[e] < capacity ? e : -1;
    }
  });
}

}  // namespace moegrad
