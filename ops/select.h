#pragma once

#include <string_view>

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Selections and what stops or redirects a gradient. Everything discrete here is a decision of the
// tape (autograd/decisions.h), so that a check can replay it.

struct TopK {
  Var values;      // [N, k], largest first
  Tensor indices;  // i32 [N, k]; of equal values the lowest place is taken first
};
// The k largest of each row of x [N, E]; the indices are the decision "top_k".
TopK top_k(Var x, std::int64_t k);
// Their places alone, as a decision of the given kind.
Tensor top_k_indices(Var x, std::int64_t k, std::string_view kind = "top_k");

// 1 where a > b, else 0, as i32 of the same shape: the decision "greater".
Tensor greater(Var a, Var b);
// condition ? a : b for an i32 condition; a and b are broadcast over its shape as in a + b.
Var where(const Tensor& condition, Var a, Var b);

// x without its gradient: the decision "stop_gradient", whose value is x.
Var stop_gradient(Var x);
// The value of hard, with its gradient sent to soft: soft + stop_gradient(hard - soft). Fused while
// decisions are live, and written out when they are recorded, replayed or enumerated.
Var straight_through(Var hard, Var soft);

struct Where {
  static constexpr std::string_view name = "where";
  static constexpr std::string_view summary = "condition ? a : b, element by element";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);  // a, b, condition
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct StraightThrough {
  static constexpr std::string_view name = "straight_through";
  static constexpr std::string_view summary = "the value of hard, the gradient to soft";
  static constexpr std::string_view source = "Bengio, Leonard & Courville 2013";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);  // hard, soft
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

// A decision and take_columns.
struct TopKValues {
  static constexpr std::string_view name = "top_k";
  static constexpr std::string_view summary = "the k largest of each row and their places";
  static constexpr Claim claim = Claim::exact_on_cell;
  static std::vector<OperationCase> cases();
};

// A decision and a constant.
struct StopGradient {
  static constexpr std::string_view name = "stop_gradient";
  static constexpr std::string_view summary = "x, as a constant of the backward pass";
  static constexpr Claim claim = Claim::surrogate;
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
