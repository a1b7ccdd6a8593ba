#pragma once

#include "autograd/tape.h"

namespace moegrad {

// k experts of each token drawn from softmax(logits) [N, E], in the order of the draws: i32 [N, k].
// Live, without replacement: the k largest of logits + Gumbel noise, which is sequential sampling
// without replacement (Kool et al., arXiv:1903.06059); in enumerate mode one draw at a time, with
// the same probabilities. The decision is called "selected".
Tensor sample_experts(Var logits, std::int64_t k, bool replacement);

}  // namespace moegrad
