#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// The same elements in another shape; no copy.
Var reshape(Var x, const Shape& shape);
// Two axes exchanged (a copy; matmul transposes without one).
Var transpose(Var x, int axis_a = -2, int axis_b = -1);
// One behind the other along an axis; the other sizes are equal.
Var concat(std::span<const Var> parts, int axis);
inline Var concat(std::initializer_list<Var> parts, int axis) {
  return concat(std::span<const Var>(parts.begin(), parts.size()), axis);
}
// The elements [begin, end) of an axis.
Var slice(Var x, int axis, std::int64_t begin, std::int64_t end);
// Slices of these sizes, which add up to the axis.
std::vector<Var> split(Var x, std::span<const std::int64_t> sizes, int axis);
inline std::vector<Var> split(Var x, std::initializer_list<std::int64_t> sizes, int axis) {
  return split(x, std::span<const std::int64_t>(sizes.begin(), sizes.size()), axis);
}

struct Reshape {
  static constexpr std::string_view name = "reshape";
  static constexpr std::string_view summary = "the same elements in another shape";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = Shape;
  static Tensor forward(Forward& in, const Shape& shape);
  static void backward(Backward& b, const Shape& shape);
  static std::vector<OperationCase> cases();
};

struct Transpose {
  static constexpr std::string_view name = "transpose";
  static constexpr std::string_view summary = "two axes exchanged";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    int first = 0, second = 0;  // first <= second
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct Concat {
  static constexpr std::string_view name = "concat";
  static constexpr std::string_view summary = "tensors one behind the other along an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    int axis = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct Slice {
  static constexpr std::string_view name = "slice";
  static constexpr std::string_view summary = "the elements [begin, end) of an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    int axis = 0;
    std::int64_t begin = 0, end = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
