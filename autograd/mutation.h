#pragma once

#include <string_view>

#include "tensor/tensor.h"

namespace moegrad {

// A defect put into the backward pass of one operation on purpose: proof that checks can fail.
struct Mutation {
  enum class Kind { sign, twice, dropped, transposed, rotated, overwrites };
  std::string_view operation;
  Kind kind = Kind::sign;
  int input = 0;
  // Set when the defect was really applied.
  bool* applied = nullptr;

  // Breaks a gradient that is about to be added to the adjoint, or loses what is there already.
  void apply(Tensor& adjoint, Tensor& gradient) const;
};
inline constexpr Mutation::Kind kMutations[] = {
    Mutation::Kind::sign,       Mutation::Kind::twice,   Mutation::Kind::dropped,
    Mutation::Kind::transposed, Mutation::Kind::rotated, Mutation::Kind::overwrites};
std::string_view name_of(Mutation::Kind kind);

}  // namespace moegrad
