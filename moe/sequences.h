#pragma once

#include <algorithm>

#include "moe/router.h"

namespace moegrad {

// The sequences of the tokens that a router sees: of L tokens each, or of fewer where padding was
// taken out of them (LayerInput::places). One without a token is none.
class Sequences {
 public:
  explicit Sequences(const LayerInput& in);
  // Of `length` tokens each; by default all are one sequence.
  Sequences(std::int64_t tokens, std::int64_t length) : count_(tokens / length), length_(length) {}
  explicit Sequences(std::int64_t tokens) : count_(1), length_(std::max<std::int64_t>(1, tokens)) {}

  std::int64_t count() const { return count_; }
  // Of the longest.
  std::int64_t length() const { return length_; }
  // i32 [N]: that of each token
  Tensor of_tokens(std::int64_t tokens, Device device) const;
  // Where they differ, how many tokens each has, [count, 1]; undefined where all have length().
  const Tensor& lengths() const { return lengths_; }

  // [N, C] -> [count, length, C]; behind the tokens of a shorter sequence stands `fill`.
  Var split(Var x, double fill = 0.0) const;
  // [count, length, C] -> [N, C]
  Var join(Var x) const;

 private:
  std::int64_t count_;
  std::int64_t length_;
  Tensor rows_;     // i32 [count, length]: the token there, or -1; undefined where none is shorter
  Tensor cells_;    // i32 [N]: where a token stands in it
  Tensor of_;       // i32 [N]
  Tensor lengths_;  // f64 [count, 1]
};

}  // namespace moegrad
