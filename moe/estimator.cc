#include "moe/estimator.h"

#include "ops/ops.h"

namespace moegrad {

Var Estimator::objective(Var losses, const Routing&, const LayerInput&) const {
  return mean(losses);
}

}  // namespace moegrad
