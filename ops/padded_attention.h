#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Each position of a sequence attends to all of it, which is its first rows; what is behind them is
// padding: out_i = sum over j < n of p_ij v_j with p_i = softmax over j < n of q_i k_j / sqrt(d). q, k,
// v and out are [B H, L, d], H heads of each of B sequences; lengths (i32 [B], on the host) has the n
// of each, 1 to L. Values behind n count nowhere, but must be finite. The [B H, L, L] scores are kept:
// for sequences of some hundred positions.
Var padded_attention(Var q, Var k, Var v, const Tensor& lengths);

struct PaddedAttention {
  static constexpr std::string_view name = "padded_attention";
  static constexpr std::string_view summary =
      "softmax(q k^T / sqrt(d)) v over sequences of several lengths";
  static constexpr Claim claim = Claim::exact;
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
