#include "moe/plan.h"

#include <algorithm>
#include <vector>

#include "tensor/kernels.h"

namespace moegrad {

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
  const std::int64_t k = selected.size(1);
  const std::int32_t* ids = selected.data<std::int32_t>();
  std::vector<std::vector<std::int32_t>> rest(static_cast<std::size_t>(tokens));
  std::size_t width = 0;
  std::vector<char> chosen(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::fill(chosen.begin(), chosen.end(), 0);
    for (std::int64_t j = 0; j < k; ++j) {
      if (ids[t * k + j] >= 0) chosen[static_cast<std::size_t>(ids[t * k + j])] = 1;
    }
    auto& row = rest[static_cast<std::size_t>(t)];
    for (std::int64_t e = 0; e < experts; ++e) {
      if (chosen[static_cast<std::size_t>(e)] == 0) row.push_back(static_cast<std::int32_t>(e));
    }
    width = std::max(width, row.size());
  }
  Tensor out = Tensor::full({tokens, static_cast<std::int64_t>(width)}, -1.0, DType::i32);
  for (std::size_t t = 0; t < rest.size(); ++t) {
    std::copy(rest[t].begin(), rest[t].end(), out.data<std::int32_t>() + t * width);
  }
  return out;
}

}  // namespace moegrad
