#pragma once

#include "moe/options.h"
#include "moe/router.h"
#include "moe/sequences.h"

namespace moegrad {

// Counts of choices, and sums and means over tokens. Every balance loss and every balancing bias is
// made of these three: what a token counts for is decided here and nowhere else.

// How many choices of selected i32 [N, k] or [N] fell on each expert, f64 [1, E] of all tokens, or
// [count, E] of each sequence. A choice of -1 is none.
Tensor expert_counts(const Tensor& selected, std::int64_t experts);
Tensor expert_counts(const Tensor& selected, std::int64_t experts, const Sequences& sequences);
// Of x [N, ...]: [...].
Var sum_over_tokens(Var x);
// Likewise; of each sequence, for x [N, C]: [count, C].
Var mean_over_tokens(Var x);
Var mean_over_tokens(Var x, const Sequences& sequences);

// Switch Transformer's auxiliary loss (arXiv:2101.03961, eq. 4): E sum_i f_i P_i, f_i the fraction
// of the choices i32 [N, k] that fell on expert i (no gradient), P_i the mean of the shares [N, E],
// which sum to 1 for each token. 1 at balance. With sequences the mean of their losses.
Var switch_auxiliary(Var shares, const Tensor& choice);
Var switch_auxiliary(Var shares, const Tensor& choice, const Sequences& sequences);
// The same of a routing: its choice before a capacity dropped any of it, and its scores, normalised
// where they do not sum to 1. Of merged experts f_i is the mean over tokens of the share of expert
// i in their merge, with its gradient.
Var switch_auxiliary(const Routing& routing);

// Router z-loss (ST-MoE, arXiv:2202.08906, eq. 5): mean over tokens of (logsumexp of the logits)^2.
Var z_loss(const Routing& routing);

// Of a router's matrix W [D, E] (SimBal, arXiv:2506.14038): sum |W^T W - 1|, in place of a balance
// loss. Tokens that are alike then have logits that are.
Var similarity_loss(Var router_weight);

// Expert-router coupling (arXiv:2512.23447). R_i, the column of an expert in the router's matrix
// [D, E], stands for its tokens; w1 [E, D, H] are the experts' first matrices:
//   M_ij = |R'_i W1_j|,  R' = R * U(1 - e_i, 1 + e_i),  e_i = min_j |R_i - R_j| / (2 |R_i|)
//   1/E^2 sum_{i != j} relu(M_ij - alpha M_ii) + relu(M_ji - alpha M_ii)
// The factors, the decision "erc" f64 [E, D], have no gradient; without `noise` they are 1. The
// loss falls by making W1 and R small: `normalised` divides M_ij by |R_i| and the norm of W1_j.
struct Coupling {
  double alpha = 1.0;
  bool normalised = false;
  bool noise = true;
};
Var coupling_loss(Var router_weight, Var w1, const Coupling& coupling);

// The squared coefficient of variation of x [E], Var/(mean^2 + epsilon), with the population
// variance: (standard deviation / mean)^2 with a finite gradient, 0, where all are equal.
Var squared_variation(Var x, double epsilon);

// Loss-free balancing (Wang et al., arXiv:2408.15664): b_i + rate sign(mean count - count_i), the
// counts those of selected i32 [N, k]; of the type of bias [E].
Tensor balanced_bias(const Tensor& bias, const Tensor& selected, double rate);

// Quantile balancing (Kimi K3, arXiv:2607.24653), a step on the dual of the assignment that gives
// each expert k N/E of the choices: with alpha_t the (k+1)-th largest of s_t + b of a token, for
// scores s [N, E],
//   b_j = -(1 - k/E quantile over t of s_tj - alpha_t), less the mean of b
// of the type of bias [E]; as it is where k = E.
Tensor quantile_bias(const Tensor& bias, const Tensor& scores, std::int64_t k);

// f64 [1, E]: of each column of x [N, E] its 1 - share quantile, linear between two neighbours:
// where share N is whole, so many elements are larger. 0 <= share <= 1.
Tensor upper_quantiles(const Tensor& x, double share);

// The option "balance": the coefficient of such a loss, 0.01.
OptionSpec balance_option();
// The option "balancing": how the bias of a selection moves, by sign (balanced_bias) or quantile.
OptionSpec balancing_option();

}  // namespace moegrad
