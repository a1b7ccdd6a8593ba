#pragma once

#include <functional>
#include <span>

#include "moe/router.h"

namespace moegrad {

// k experts of each token drawn from softmax(logits) [N, E], in the order of the draws: i32 [N, k].
// Live, without replacement: the k largest of logits + Gumbel noise, which is sequential sampling
// without replacement (Kool et al., arXiv:1903.06059); in enumerate mode one draw at a time, with
// the same probabilities. The decision is called `kind`.
Tensor sample_experts(Var logits, std::int64_t k, bool replacement,
                      std::string_view kind = "selected");

// Combine weights w = g R of the selected experts [N, k], g = softmax(logits), with R held
// constant: the gradient of w_i is w_i d log g_i. Their value is the decision "weights": on the
// host `value` fills it for one token, from its logits less the largest and its selected experts
// (several threads call it at once). No R, which may overflow, is ever formed.
using TokenWeights =
    std::function<void(std::int64_t token, std::span<const double> logits,
                       std::span<const std::int32_t> selected, std::span<double> weights)>;
Var constant_ratio_weights(Var logits, const Tensor& selected, const TokenWeights& value);

// Inference of a sampling router: S = TopK(logits), w = softmax of the logits over S. Sets selected
// and weights; reads logits.
void select_renormalised(Routing& routing, std::int64_t k);

}  // namespace moegrad
