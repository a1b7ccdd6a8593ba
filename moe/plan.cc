#include "moe/plan.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace moegrad {

void require_plan_size(std::int64_t tokens, std::int64_t choices, std::int64_t experts) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  std::int64_t all = 0;
  const bool overflow = __builtin_mul_overflow(tokens, choices, &all);
  if (overflow || all > kMost || experts >= kMost) {
    fail("plan",
         "{} tokens with {} choices each among {} experts. A plan numbers choices and experts by "
         "i32, up to {}; use smaller batches.",
         tokens, choices, experts, kMost);
  }
}

Plan make_plan(const Tensor& selected, std::int64_t experts) {
  if (selected.rank() != 2 || selected.dtype() != DType::i32) {
    fail("plan", "selected is {} {}. It must be i32 [tokens, k].", name_of(selected.dtype()),
         selected.shape());
  }
  const std::int64_t k = selected.size(1);
  require_plan_size(selected.size(0), k, experts);
  const std::span<const std::int32_t> ids = selected.values<std::int32_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < -1 || ids[i] >= experts) {
      fail("plan", "token {} chooses expert {} of {}. Use 0 to {}, or -1 for none.",
           i / static_cast<std::size_t>(k), ids[i], experts, experts - 1);
    }
  }
  Plan plan;
  plan.experts = experts;
  plan.choices = k;
  plan.offsets = Tensor::empty({experts + 1}, DType::i32, Device::cpu);
  const Tensor order = Tensor::empty({selected.numel()}, DType::i32, Device::cpu);
  plan.inverse = Tensor::empty(selected.shape(), DType::i32, Device::cpu);
  kernels(selected.device()).plan(selected, experts, plan.offsets, order, plan.inverse);
  plan.order = order.rows(0, plan.offsets.data<std::int32_t>()[experts]);
  return plan;
}

Plan joined(const Plan& first, const Plan& second) {
  if (first.tokens() != second.tokens() || first.experts != second.experts) {
    fail("plan",
         "plans of {} and {} tokens and {} and {} experts cannot be joined. They must agree.",
         first.tokens(), second.tokens(), first.experts, second.experts);
  }
  require_plan_size(first.tokens(), first.choices + second.choices, first.experts);
  Plan plan;
  plan.experts = first.experts;
  plan.choices = first.choices + second.choices;
  plan.offsets = Tensor::empty({plan.experts + 1}, DType::i32, Device::cpu);
  plan.order = Tensor::empty({first.slots() + second.slots()}, DType::i32, Device::cpu);
  plan.inverse = Tensor::full({first.tokens(), plan.choices}, -1.0, DType::i32, Device::cpu);
  std::int32_t* const offsets = plan.offsets.write<std::int32_t>();
  std::int32_t* const order = plan.order.write<std::int32_t>();
  std::int32_t* const inverse = plan.inverse.write<std::int32_t>();
  for (std::int64_t e = 0; e <= plan.experts; ++e) {
    offsets[e] = first.offsets.data<std::int32_t>()[e] + second.offsets.data<std::int32_t>()[e];
  }
  // The slots of expert e in `part`, from `slot` on; its choices stand `shift` behind.
  const auto put = [&](const Plan& part, std::int64_t e, std::int64_t shift, std::int32_t slot) {
    const std::int32_t* const from = part.order.data<std::int32_t>();
    const std::int32_t* const bounds = part.offsets.data<std::int32_t>();
    for (std::int32_t s = bounds[e]; s < bounds[e + 1]; ++s, ++slot) {
      const std::int64_t token = from[s] / part.choices;
      const std::int64_t choice = token * plan.choices + shift + from[s] % part.choices;
      order[slot] = static_cast<std::int32_t>(choice);
      inverse[choice] = slot;
    }
  };
  const std::int64_t each = plan.slots() / std::max<std::int64_t>(1, plan.experts);
  cpu::parallel_for(
      plan.experts, cpu::items_per_grain(each), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t e = begin; e < end; ++e) {
          put(first, e, 0, offsets[e]);
          put(second, e, first.choices, offsets[e] + static_cast<std::int32_t>(first.load(e)));
        }
      });
  return plan;
}

Tensor unselected(const Tensor& selected, std::int64_t experts) {
  const std::int64_t tokens = selected.size(0);
  const std::int64_t k = selected.size(1);
  require_plan_size(tokens, experts, experts);
  const std::int32_t* const ids = selected.data<std::int32_t>();
  const std::int64_t grain = cpu::items_per_grain(experts + k);
  // Of each token: a bit for every expert it leaves out, and how many these are.
  const std::int64_t words = (experts + 63) / 64;
  PoolVector<std::uint64_t> bits(static_cast<std::size_t>(tokens * words));
  PoolVector<std::int32_t> counts(static_cast<std::size_t>(tokens));
  std::uint64_t* const left = bits.data();
  std::int32_t* const count = counts.data();
  cpu::parallel_for(tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::uint64_t* const mine = left + t * words;
      for (std::int64_t w = 0; w < words; ++w) {
        mine[w] = ~std::uint64_t{0} >> std::max<std::int64_t>(0, 64 * (w + 1) - experts);
      }
      for (std::int64_t i = t * k; i < (t + 1) * k; ++i) {
        if (ids[i] >= 0) mine[ids[i] / 64] &= ~(std::uint64_t{1} << (ids[i] % 64));
      }
      count[t] = 0;
      for (std::int64_t w = 0; w < words; ++w) count[t] += std::popcount(mine[w]);
    }
  });
  const std::int64_t width = tokens == 0 ? 0 : *std::ranges::max_element(counts);
  Tensor out = Tensor::empty({tokens, width}, DType::i32, Device::cpu);
  std::int32_t* const rest = out.write<std::int32_t>();
  cpu::parallel_for(tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::int32_t* next = rest + t * width;
      for (std::int64_t w = 0; w < words; ++w) {
        const auto first = static_cast<std::int32_t>(64 * w);
        for (std::uint64_t word = left[t * words + w]; word != 0; word &= word - 1) {
          *next++ = first + std::countr_zero(word);
        }
      }
      std::fill(next, rest + (t + 1) * width, -1);
    }
  });
  return out;
}

}  // namespace moegrad
