#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Rotary positions: place l of x [.., L, d] turned by its angles, columns i and i + d/2 together:
//   y_i = x_i cos_li - x_(i + d/2) sin_li,   y_(i + d/2) = x_(i + d/2) cos_l(i + d/2) + x_i sin_l(i + d/2)
// cos and sin [L, d] are the angles' and have no gradient; d is even. Nothing of x is kept.
Var rotary(Var x, const Tensor& cos, const Tensor& sin);

struct Rotary {
  static constexpr std::string_view name = "rotary";
  static constexpr std::string_view summary =
      "x cos + turned(x) sin, turned(x) = (-second half, first half) of each row";
  static constexpr std::string_view source = "Su et al. 2021, arXiv:2104.09864";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);  // x, cos, sin
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
