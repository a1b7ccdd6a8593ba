#include "moe/plan.h"

#include <algorithm>
#include <limits>

#include "tensor/kernels.h"

namespace moegrad {
namespace {

void require_choices(const Tensor& selected) {
  if (selected.rank() == 2 && selected.dtype() == DType::i32) return;
  fail("plan", "selected is {} {}. It must be i32 [tokens, k].", name_of(selected.dtype()),
       selected.shape());
}

}  // namespace

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

Plan make_plan(const Tensor& selected, std::int64_t experts, std::int64_t most) {
  require_choices(selected);
  require_plan_size(selected.size(0), selected.size(1), experts);
  if (most < 0) fail("plan", "room for {} choices. Give 0 or more.", most);
  const std::int64_t slots = std::min(most, selected.numel());
  Plan plan({selected.size(0), selected.size(1), experts},
            selected.like({experts + 1 + selected.numel() + slots}));
  kernels(selected.device()).plan(selected, experts, plan.offsets(), plan.order(), plan.inverse());
  if (selected.device() == Device::cpu) {
    const std::int64_t unused = slots - plan.table.data<std::int32_t>()[experts];
    plan.table = plan.table.rows(0, plan.table.numel() - unused);
  }
  return plan;
}

Plan make_plan(const Tensor& selected, std::int64_t experts) {
  return make_plan(selected, experts, std::numeric_limits<std::int64_t>::max());
}

Tensor complement(const Tensor& selected, std::int64_t experts) {
  require_choices(selected);
  require_plan_size(selected.size(0), experts, experts);
  Tensor out = selected.like({selected.size(0), experts});
  kernels(selected.device()).complement(selected, out);
  return out;
}

}  // namespace moegrad
