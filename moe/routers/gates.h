#pragma once

#include "moe/router.h"
#include "ops/ops.h"

namespace moegrad {

// What routers with gates of their own have in common.

// Weights [N, E] to i32 [N, E]: in column e the expert e where its weight is above 0, else -1; the
// decision "selected".
inline Tensor open_gates(Var weights) {
  return weights.tape().decisions().decide("selected", DType::i32, weights.shape(), [&] {
    const Tensor w = weights.value();
    Tensor selected = every_expert(w.size(0), w.size(1));
    const std::span<std::int32_t> ids = selected.values<std::int32_t>();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!(w.at(static_cast<std::int64_t>(i)) > 0.0)) ids[i] = -1;
    }
    return selected;
  });
}

// The smooth step (Hazimeh et al., arXiv:2106.03760, eq. 4): 0 below -gamma/2, 1 above gamma/2,
// else -2 z^3/gamma^3 + 3 z/(2 gamma) + 1/2 = v^2 (3 - 2 v) with v = z/gamma + 1/2, which is
// exactly 0 and 1 at the ends and never outside. 1 - S(z) = S(-z).
inline Var smooth_step(Var z, double gamma) {
  const Var v = clamp(affine(z, 1.0 / gamma, 0.5), 0.0, 1.0);
  return square(v) * affine(v, -2.0, 3.0);
}

// Over rows [R, C] of N tokens: (1/N) sum of -r log(r + 1e-6).
inline Var entropy_per_token(Var rows, std::int64_t tokens) {
  return -sum(rows * log(rows + 1e-6)) / static_cast<double>(tokens);
}

}  // namespace moegrad
