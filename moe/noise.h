#pragma once

#include "autograd/tape.h"

namespace moegrad {

// Normal noise of mean 0 of the shape, type and device of `like`: the decision "noise", drawn in
// f64, so that a run can be repeated in another type.
Tensor normal_noise(Var like, double deviation = 1.0);

// x [N, E] less the largest of each row, which is held constant. For functions that a shift of a
// row does not change (softmax, top-k): noise added to large logits is rounded, added to this it is
// not.
Var less_largest(Var x);
Tensor less_largest(const Tensor& x);
// The same plus `noise` (undefined: none) in f64, to be ranked by: noise counts behind a large
// logit too.
Tensor noisy_order(const Tensor& logits, const Tensor& noise);

// The distribution function of the standard normal: (1 + erf(z / sqrt 2)) / 2.
Var normal_cdf(Var z);

}  // namespace moegrad
