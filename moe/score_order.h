#pragma once

#include "tensor/tensor.h"

namespace moegrad {

// Orders of scores by what floating point does not round away: the sigmoid of 40 is 1, as is that
// of 50, and beside a logit of 200 the softmax of 0 and of 50 is 0 in f32.

// log(g / (1 - g)) of g = softmax(logits [N, E]), f64 [N, E]: o_i - logsumexp of the others, which
// grows as g does. E = 1: infinity.
Tensor log_odds(const Tensor& logits);

// The k experts of the largest s_i + b_i of each token, i32 [N, k], the largest first, for scores s
// [N, E] of the logits [N, E] and biases b [E]. Where sums are within rounding of each other they
// are made of the logits and compared to 32 digits; of equal sums the larger logit comes first,
// then the lower expert. With groups of E/groups neighbours: those of the `kept` groups of the
// largest score, the sum of a group's two largest s_i + b_i.
enum class Score { sigmoid, softmax };
Tensor top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t k, std::int64_t groups = 1, std::int64_t kept = 1);

}  // namespace moegrad
