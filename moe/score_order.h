#pragma once

#include "tensor/kernels.h"

namespace moegrad {

// Orders of scores by what floating point does not round away: Kernels::log_odds, f64 [N, E], and
// Kernels::top_biased, i32 [N, k].
Tensor log_odds(const Tensor& logits);
Tensor top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t k, std::int64_t groups = 1, std::int64_t kept = 1);

}  // namespace moegrad
