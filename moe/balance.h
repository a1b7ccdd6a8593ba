#pragma once

#include "moe/router.h"

namespace moegrad {

// Switch Transformer's auxiliary loss (arXiv:2101.03961, eq. 4): E sum_i f_i P_i, f_i the fraction
// of all choices that fell on expert i (no gradient), P_i the mean of the scores p_i. 1 at balance.
// Of merged experts f_i is the mean share of expert i in the merges, without gradient.
Var switch_auxiliary(const Routing& routing);

// Router z-loss (ST-MoE, arXiv:2202.08906, eq. 5): mean over tokens of (logsumexp of the logits)^2.
Var z_loss(const Routing& routing);

}  // namespace moegrad
