#include "moe/capacity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "moe/values.h"
#include "ops/checks.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// i32 [k, N]: the queue, once for each rank of choices
Tensor queue_of_ranks(const Tensor& queue, std::int64_t k) {
  const std::int64_t tokens = queue.numel();
  Tensor places = queue.like({k, tokens});
  kernels(queue.device()).copy_block(queue, 0, 0, k, tokens, 0, tokens, places);
  return places;
}

// A permutation; of a device that is for whoever made it to see to.
void require_queue(const Tensor& queue, std::int64_t tokens) {
  if (queue.dtype() != DType::i32 || queue.numel() != tokens) {
    fail("capacity", "the queue is {} {} for {} tokens. It must be i32, with one place each.",
         name_of(queue.dtype()), queue.shape(), tokens);
  }
  require_indices("capacity", queue, 0, tokens);
  if (queue.device() != Device::cpu) return;
  PoolVector<char> seen(static_cast<std::size_t>(tokens), 0);
  for (const std::int32_t t : queue.values<std::int32_t>()) {
    if (std::exchange(seen[static_cast<std::size_t>(t)], 1) == 0) continue;
    fail("capacity", "the queue names token {} twice. Name each of the {} once.", t, tokens);
  }
}

}  // namespace

Tensor drop_over_capacity(const Tensor& selected, std::int64_t experts, std::int64_t capacity,
                          const Tensor& queue) {
  if (selected.rank() != 2 || selected.dtype() != DType::i32) {
    fail("capacity", "selected is {} {}. It must be i32 [tokens, k].", name_of(selected.dtype()),
         selected.shape());
  }
  if (capacity < 1) {
    fail("capacity", "an expert has room for {} choices. Give it room for at least one.", capacity);
  }
  const std::int64_t tokens = selected.size(0);
  const std::int64_t k = selected.size(1);
  if (queue.defined()) require_queue(queue, tokens);
  // Row j: the j-th choices in the order of the queue. A plan of them gives the slots of an expert
  // in the order in which they are given out.
  Kernels& kernel = kernels(selected.device());
  Tensor in_order = transposed(selected);
  const Tensor places = queue.defined() ? queue_of_ranks(queue, k) : Tensor();
  if (queue.defined()) in_order = take_columns(in_order, places);
  const Tensor offsets = selected.like({experts + 1});
  const Tensor order = selected.like({tokens * k});
  const Tensor slots = in_order.like();
  kernel.plan(in_order, experts, offsets, order, slots);
  const Tensor kept = in_order.like();
  kernel.keep_first(in_order, offsets, slots, capacity, kept);
  return transposed(queue.defined() ? put_columns(kept, places, tokens) : kept);
}

std::int64_t most_within(std::int64_t experts, std::int64_t capacity) {
  constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  std::int64_t most = 0;
  return __builtin_mul_overflow(experts, capacity, &most) ? kAll : most;
}

void select_within(Routing& routing, const LayerInput& in, const Tensor& chosen,
                   std::int64_t experts, std::int64_t capacity, const Tensor& queue) {
  routing.choice = chosen;
  if (in.dropless && !in.training) {
    routing.selected = chosen;
    return;
  }
  routing.selected = drop_over_capacity(chosen, experts, capacity, queue);
  routing.most = most_within(experts, capacity);
}

Var kept_weights(Var weights, const Tensor& selected) {
  const Tensor kept = greater(selected, scalar_like(selected, -1.0));
  return where(kept, weights, constant_like(weights, {}, 0.0));
}

namespace {

// Products such as 1.1 * 30 are a rounding error away from the integer that is meant.
constexpr double kRounding = 1e-9;

double share(double factor, std::int64_t choices, std::int64_t experts) {
  return factor * static_cast<double>(choices) / static_cast<double>(experts);
}

// As an integer between 1 and the number of choices: more room than that changes nothing.
std::int64_t within(double capacity, std::int64_t choices) {
  return static_cast<std::int64_t>(
      std::clamp(capacity, 1.0, std::max(1.0, static_cast<double>(choices))));
}

}  // namespace

std::int64_t capacity_down(double factor, std::int64_t choices, std::int64_t experts) {
  return within(std::floor(share(factor, choices, experts) + kRounding), choices);
}

std::int64_t capacity_up(double factor, std::int64_t choices, std::int64_t experts,
                         std::int64_t multiple) {
  const std::int64_t c = within(std::ceil(share(factor, choices, experts) - kRounding), choices);
  return (c + multiple - 1) / multiple * multiple;
}

OptionSpec least_capacity_option(std::string_view counted) {
  return option::integer("capacity-min",
                         fmt::format("an expert has room for so many {} at least", counted))
      .initially("4")
      .from(1, 1e6)
      .tried({"1"});
}

}  // namespace moegrad
