#pragma once

#include <string_view>

#include "tensor/kernels.h"

// Operands of different shapes meet as in NumPy: their axes are matched from the last one, and an
// axis of size 1, or one that is missing, is repeated.
namespace moegrad {

// The result, as the kernels see it, and each operand's place in it; an operand that is to be
// spread has one once it is written out in the result's shape.
struct BroadcastPlan {
  Shape shape;
  std::int64_t rows = 1;
  std::int64_t cols = 1;
  Layout a, b;
  bool spread_a = false;
  bool spread_b = false;
};

// Throws `[operation] ...` where the shapes do not meet.
BroadcastPlan broadcast(std::string_view operation, const Shape& a, const Shape& b);
// The plan of two operands that meet `shape`. Axes along which each operand goes on alike are seen
// as one; where more than two are left, the operands that are repeated get written out.
BroadcastPlan laid_over(const Shape& shape, const Shape& a, const Shape& b);

// x repeated so that it has this shape, which it meets; x itself where it has it.
Tensor spread_over(const Tensor& x, const Shape& shape);
// The way back: d summed over what an operand of this shape was repeated along.
Tensor sum_to(Tensor&& d, const Shape& shape);

// run(a, b) with the operands as the plan's layouts want them.
template <class F>
void with_placed(const BroadcastPlan& p, const Tensor& a, const Tensor& b, F&& run) {
  if (!p.spread_a && !p.spread_b) {
    run(a, b);
  } else {
    run(p.spread_a ? spread_over(a, p.shape) : a, p.spread_b ? spread_over(b, p.shape) : b);
  }
}

}  // namespace moegrad
