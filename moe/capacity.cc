#include "moe/capacity.h"

#include <algorithm>
#include <cmath>

#include "ops/ops.h"

namespace moegrad {

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
  if (queue.defined() && (queue.dtype() != DType::i32 || queue.numel() != tokens)) {
    fail("capacity", "the queue is {} {} for {} tokens. It must be i32, with one place each.",
         name_of(queue.dtype()), queue.shape(), tokens);
  }
  Tensor kept = Tensor::full(selected.shape(), -1.0, DType::i32, Device::cpu);
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts), 0);
  for (std::int64_t rank = 0; rank < k; ++rank) {
    for (std::int64_t place = 0; place < tokens; ++place) {
      const std::int64_t t = queue.defined() ? queue.data<std::int32_t>()[place] : place;
      if (t < 0 || t >= tokens) {
        fail("capacity", "the queue names token {} of {}. Use 0 to {}.", t, tokens, tokens - 1);
      }
      const std::int32_t e = selected.data<std::int32_t>()[t * k + rank];
      if (e >= experts) {
        fail("capacity", "token {} chooses expert {} of {}. Use 0 to {}, or -1 for none.", t, e,
             experts, experts - 1);
      }
      if (e < 0 || load[static_cast<std::size_t>(e)] == capacity) continue;
      ++load[static_cast<std::size_t>(e)];
      kept.write<std::int32_t>()[t * k + rank] = e;
    }
  }
  return kept;
}

void select_within(Routing& routing, const LayerInput& in, const Tensor& chosen,
                   std::int64_t experts, std::int64_t capacity, const Tensor& queue) {
  routing.choice = chosen;
  if (in.dropless && !in.training) {
    routing.selected = chosen;
    return;
  }
  const auto choices = [](const Tensor& ids) {
    const auto values = ids.values<std::int32_t>();
    return std::count_if(values.begin(), values.end(), [](std::int32_t e) { return e >= 0; });
  };
  const Tensor kept = drop_over_capacity(chosen, experts, capacity, queue);
  routing.dropped = choices(chosen) - choices(kept);
  routing.selected = kept;
}

Var kept_weights(Var weights, const Tensor& selected) {
  const Tensor kept = Tensor::empty(selected.shape(), DType::i32, Device::cpu);
  bool all = true;
  for (std::int64_t i = 0; i < selected.numel(); ++i) {
    kept.write<std::int32_t>()[i] = selected.data<std::int32_t>()[i] >= 0 ? 1 : 0;
    all = all && kept.data<std::int32_t>()[i] == 1;
  }
  if (all) return weights;
  return where(kept, weights,
               weights.tape().constant(Tensor::zeros({}, weights.dtype(), Device::cpu)));
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
