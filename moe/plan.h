#pragma once

#include "tensor/tensor.h"

namespace moegrad {

// Where each token's choices go: slots sorted by expert, in the order of tokens within an expert
// (a stable counting sort), made once and used by forward and backward. S slots; N tokens with k
// choices each; a choice of -1 is none and has no slot.
struct Plan {
  Tensor offsets;  // i32 [E+1]: expert e owns slots offsets[e] .. offsets[e+1]
  Tensor order;    // i32 [S]: slot -> t k + j
  Tensor inverse;  // i32 [N, k]: choice -> slot, or -1
  std::int64_t experts = 0;
  std::int64_t choices = 0;  // k

  std::int64_t tokens() const { return inverse.size(0); }
  std::int64_t slots() const { return order.size(0); }
  // Slots of one expert.
  std::int64_t load(std::int64_t expert) const {
    const std::int32_t* o = offsets.data<std::int32_t>();
    return o[expert + 1] - o[expert];
  }
};

// Slots, choices and experts are numbered by i32: an Error for 2^31 choices (N k) or experts.
void require_plan_size(std::int64_t tokens, std::int64_t choices, std::int64_t experts);

// From selected i32 [N, k]; an Error for an entry outside -1 .. experts-1.
Plan make_plan(const Tensor& selected, std::int64_t experts);

// The choices of both: those of `second` behind those of `first` for each token, and in the slots
// of each expert. An Error where they differ in tokens or experts.
Plan joined(const Plan& first, const Plan& second);

// The experts that each token did not choose, ascending: i32 [N, width], padded with -1.
// width = experts - k where the choices of each token differ.
Tensor unselected(const Tensor& selected, std::int64_t experts);

}  // namespace moegrad
