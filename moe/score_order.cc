#include "moe/score_order.h"

namespace moegrad {

Tensor log_odds(const Tensor& logits) {
  Tensor odds = Tensor::empty(logits.shape(), DType::f64, logits.device());
  kernels(logits.device()).log_odds(logits, odds);
  return odds;
}

Tensor top_biased(Score score, const Tensor& scores, const Tensor& logits, const Tensor& bias,
                  std::int64_t k, std::int64_t groups, std::int64_t kept) {
  Tensor selected = Tensor::empty({scores.size(0), k}, DType::i32, scores.device());
  kernels(scores.device()).top_biased(score, scores, logits, bias, groups, kept, selected);
  return selected;
}

}  // namespace moegrad
