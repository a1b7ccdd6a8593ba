#pragma once

#include <utility>

#include "tensor/tensor.h"

namespace moegrad {

struct PlanSize {
  std::int64_t tokens = 0;   // N
  std::int64_t choices = 0;  // k
  std::int64_t experts = 0;  // E
};

// Where each token's choices go: slots sorted by expert, in the order of tokens within an expert
// (a stable counting sort), made once and used by forward and backward. A choice of -1 is none and
// has no slot. There are S slots, known from shapes alone: as many as there can be choices. Those
// behind the last choice belong to no expert; their rows are zeros, and nothing is worked out for
// them. So S depends on the device: a mean over slots is no mean over choices, and what a program
// of one's own does with rows of slots has to have a finite derivative at 0.
//
// All of it is one tensor, and with that one input of an operation.
struct Plan : PlanSize {
  Plan() = default;
  Plan(const PlanSize& size, Tensor numbers) : PlanSize(size), table(std::move(numbers)) {}

  Tensor table;  // i32: offsets, inverse and order one behind the other

  // i32 [E+1]: expert e owns slots offsets[e] .. offsets[e+1]
  Tensor offsets() const { return table.rows(0, experts + 1); }
  // i32 [N, k]: choice -> slot, or -1
  Tensor inverse() const {
    return table.rows(experts + 1, first_slot()).reshape({tokens, choices});
  }
  // i32 [S]: slot -> t k + j, or -1
  Tensor order() const { return table.rows(first_slot(), table.numel()); }
  std::int64_t slots() const { return table.numel() - first_slot(); }

 private:
  std::int64_t first_slot() const { return experts + 1 + tokens * choices; }
};

// Slots, choices and experts are numbered by i32: an Error for 2^31 choices (N k) or experts.
void require_plan_size(std::int64_t tokens, std::int64_t choices, std::int64_t experts);

// From selected i32 [N, k], of which at most `most` are choices (and not -1); an Error where more
// are, and for an entry outside -1 .. experts-1. On the host, which knows how many there are
// without waiting for anybody, S is just that.
Plan make_plan(const Tensor& selected, std::int64_t experts, std::int64_t most);
// The same where all may be.
Plan make_plan(const Tensor& selected, std::int64_t experts);

// The experts that each token did not choose: i32 [N, E], e in column e, -1 where it chose e. Their
// scores are the columns of the scores.
Tensor complement(const Tensor& selected, std::int64_t experts);

}  // namespace moegrad
