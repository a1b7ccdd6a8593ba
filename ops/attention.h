#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Each position attends to itself and to those before it: out_i = sum over j <= i of p_ij v_j with
// p_i = softmax over j <= i of q_i k_j / sqrt(d). q, k, v and out are [B, L, d], B sequences times
// heads. No [L, L] matrix is ever stored: saved are q, k, v, out and [B, L] more.
Var causal_attention(Var q, Var k, Var v);

// Each position attends to all of its text: out_i = sum over the j of its text of p_ij v_j with p_i =
// softmax over them of q_i k_j / sqrt(d). q, k, v and out are [H, N, d], H heads of N tokens of texts
// that lie one behind the other, lengths (i32 [B], on the host) rows each, N in all: nothing is
// padded. Saved are q, k, v, out, [H, N] and the texts' places, i32 [B + 1], more. N is at most 2^31 - 1.
Var packed_attention(Var q, Var k, Var v, const Tensor& lengths);

struct CausalAttention {
  static constexpr std::string_view name = "causal_attention";
  static constexpr std::string_view summary =
      "softmax(q k^T / sqrt(d)) v, each position seeing none after it";
  static constexpr std::string_view source = "Dao et al. 2022, arXiv:2205.14135";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs_and_output;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct PackedAttention {
  static constexpr std::string_view name = "packed_attention";
  static constexpr std::string_view summary =
      "softmax(q k^T / sqrt(d)) v within texts that lie one behind the other";
  static constexpr std::string_view source = "Dao et al. 2022, arXiv:2205.14135";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs_and_output;
  struct Attributes {
    std::int64_t longest = 0;  // text
  };
  static Tensor forward(Forward& in, const Attributes& a);
  static void backward(Backward& b, const Attributes& a);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
