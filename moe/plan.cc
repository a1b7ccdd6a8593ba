#include "moe/plan.h"

#include <algorithm>
#include <vector>

#include "tensor/cpu_parallel.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// Calls f(token, chosen) for every row of selected i32 [N, k], with a flag for each expert.
template <class F>
void for_each_token(const Tensor& selected, std::int64_t experts, F&& f) {
  const std::int64_t k = selected.size(1);
  const std::int32_t* const ids = selected.data<std::int32_t>();
  const auto piece = [&](std::int64_t begin, std::int64_t end) {
    std::vector<char> chosen(static_cast<std::size_t>(experts));
    for (std::int64_t t = begin; t < end; ++t) {
      std::fill(chosen.begin(), chosen.end(), 0);
      for (std::int64_t i = t * k; i < (t + 1) * k; ++i) {
        if (ids[i] >= 0) chosen[static_cast<std::size_t>(ids[i])] = 1;
      }
      f(t, chosen.data());
    }
  };
  cpu::parallel_for(selected.size(0), cpu::items_per_grain(experts + k), piece);
}

}  // namespace

Plan make_plan(const Tensor& selected, std::int64_t experts) {
  if (selected.rank() != 2 || selected.dtype() != DType::i32) {
    fail("plan", "selected is {} {}. It must be i32 [tokens, k].", name_of(selected.dtype()),
         selected.shape());
  }
  const std::int64_t k = selected.size(1);
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
  plan.offsets = Tensor::empty({experts + 1}, DType::i32);
  const Tensor order = Tensor::empty({selected.numel()}, DType::i32);
  plan.inverse = Tensor::empty(selected.shape(), DType::i32);
  kernels(selected.device()).plan(selected, experts, plan.offsets, order, plan.inverse);
  plan.order = order.rows(0, plan.offsets.data<std::int32_t>()[experts]);
  return plan;
}

Tensor unselected(const Tensor& selected, std::int64_t experts) {
  const std::int64_t tokens = selected.size(0);
  const Tensor left = Tensor::empty({tokens}, DType::i32);  // how many experts each token leaves
  std::int32_t* const count = left.data<std::int32_t>();
  for_each_token(selected, experts, [=](std::int64_t t, const char* chosen) {
    count[t] = static_cast<std::int32_t>(std::count(chosen, chosen + experts, 0));
  });
  const std::int64_t width = tokens == 0 ? 0 : *std::max_element(count, count + tokens);
  Tensor out = Tensor::empty({tokens, width}, DType::i32);
  std::int32_t* const rest = out.data<std::int32_t>();
  for_each_token(selected, experts, [=](std::int64_t t, const char* chosen) {
    std::int32_t* next = rest + t * width;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (chosen[e] == 0) *next++ = static_cast<std::int32_t>(e);
    }
    std::fill(next, rest + (t + 1) * width, -1);
  });
  return out;
}

}  // namespace moegrad
