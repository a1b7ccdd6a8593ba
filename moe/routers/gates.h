#pragma once

#include "moe/balance.h"
#include "moe/router.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

// What routers with gates of their own have in common.

// Weights [N, E] to i32 [N, E]: in column e the expert e where its weight is above 0, else -1; the
// decision "selected".
inline Tensor open_gates(Var weights) {
  return weights.tape().decisions().decide("selected", DType::i32, weights.shape(), [&] {
    const Tensor w = weights.value();
    const Tensor all = every_expert(w.size(0), w.size(1), w.device());
    return where(greater(w, scalar_like(w, 0.0)), all, scalar_like(all, -1.0));
  });
}

// The k largest weights of a token that are above 0, else -1: what balance losses count while more
// gates are open.
inline Tensor largest_open(Var weights, std::int64_t k) {
  const Tensor choice = top_k_indices(weights, k, "choice");
  const Tensor w = take_columns(weights.value(), choice);
  return where(greater(w, scalar_like(w, 0.0)), choice, scalar_like(choice, -1.0));
}

// The smooth step (Hazimeh et al., arXiv:2106.03760, eq. 4): 0 below -gamma/2, 1 above gamma/2,
// else -2 z^3/gamma^3 + 3 z/(2 gamma) + 1/2 = v^2 (3 - 2 v) with v = z/gamma + 1/2, which is
// exactly 0 and 1 at the ends and never outside. 1 - S(z) = S(-z).
inline Var smooth_step(Var z, double gamma) {
  const Var v = clamp(affine(z, 1.0 / gamma, 0.5), 0.0, 1.0);
  return square(v) * affine(v, -2.0, 3.0);
}

// Over rows [R, C] of N tokens, R/N of each: the mean over tokens of the sum of -r log(r + 1e-6).
inline Var entropy_per_token(Var rows, std::int64_t tokens) {
  const std::int64_t each = rows.size(0) / tokens * rows.size(1);
  return -mean_over_tokens(sum(reshape(rows * log(rows + 1e-6), {tokens, each}), 1));
}

}  // namespace moegrad
