#pragma once

#include "moe/router.h"

namespace moegrad {

// Switch Transformer's auxiliary loss (arXiv:2101.03961, eq. 4): E sum_i f_i P_i, f_i the fraction
// of all choices that fell on expert i (no gradient), P_i the mean of the scores p_i. 1 at balance.
// Of merged experts f_i is the mean share of expert i in the merges; it has a gradient.
Var switch_auxiliary(const Routing& routing);
// The same for a choice i32 [N, k] other than the routing's: that before dropping, or the first.
Var switch_auxiliary(Var scores, const Tensor& choice);

// Router z-loss (ST-MoE, arXiv:2202.08906, eq. 5): mean over tokens of (logsumexp of the logits)^2.
Var z_loss(const Routing& routing);

// The squared coefficient of variation of x [E], Var/(mean^2 + epsilon), with the population
// variance: (standard deviation / mean)^2 with a finite gradient, 0, where all are equal.
Var squared_variation(Var x, double epsilon);

// Loss-free balancing (Wang et al., arXiv:2408.15664): b_i + rate sign(mean count - count_i), the
// counts those of selected i32 [N, k]; of the type of bias [E].
Tensor balanced_bias(const Tensor& bias, const Tensor& selected, double rate);

}  // namespace moegrad
