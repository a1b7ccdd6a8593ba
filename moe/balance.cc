#include "moe/balance.h"

#include "ops/ops.h"

namespace moegrad {

Var switch_auxiliary(const Routing& routing) {
  Tape& tape = routing.scores.tape();
  const std::int64_t experts = routing.scores.size(1);
  if (routing.merge.defined()) {
    const Var shares = mean(stop_gradient(routing.merge), 0);
    return static_cast<double>(experts) * sum(mean(routing.scores, 0) * shares);
  }
  Tensor fractions = Tensor::zeros({experts}, DType::f64);
  std::int64_t choices = 0;
  for (const std::int32_t e : routing.selected.values<std::int32_t>()) {
    if (e < 0) continue;
    fractions.data<double>()[e] += 1.0;
    ++choices;
  }
  for (double& f : fractions.values<double>()) {
    f *= choices == 0 ? 0.0 : static_cast<double>(experts) / static_cast<double>(choices);
  }
  const Var f = tape.constant(fractions.to(routing.scores.dtype()));
  return sum(mean(routing.scores, 0) * f);
}

Var z_loss(const Routing& routing) { return mean(square(logsumexp(routing.logits, 1))); }

}  // namespace moegrad
