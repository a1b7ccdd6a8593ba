#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// op(a) op(b) for matrices [m, k] and [k, n], stored transposed where told. Either or both may be
// batches [B, m, k]; an operand without a batch is shared, and its gradient summed over the batch.
Var matmul(Var a, Var b, bool transpose_a = false, bool transpose_b = false);

struct Matmul {
  static constexpr std::string_view name = "matmul";
  static constexpr std::string_view summary = "op(a) op(b) of matrices or batches of them";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  struct Attributes {
    bool transpose_a = false;
    bool transpose_b = false;
  };
  static Tensor forward(Forward& in, const Attributes& t);
  static void backward(Backward& b, const Attributes& t);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
