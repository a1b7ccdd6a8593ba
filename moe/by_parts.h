#pragma once

#include <memory>

#include "moe/estimator.h"

namespace moegrad {

// The router part of one estimator with the expert part of another. Each runs as it is, with what
// the other is to give held constant; the value is the router part's.
//
//   y = a + (b - sg b),  a: no gradient of experts and x;  b: none of weights, scores and logits
std::unique_ptr<Estimator> by_parts(std::unique_ptr<Estimator> router,
                                    std::unique_ptr<Estimator> experts);

}  // namespace moegrad
