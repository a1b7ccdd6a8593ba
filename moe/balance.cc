#include "moe/balance.h"

#include "ops/ops.h"

namespace moegrad {
namespace {

// How many choices fell on each expert, and how many there are.
std::pair<PoolVector<std::int64_t>, std::int64_t> count(const Tensor& selected,
                                                        std::int64_t experts) {
  PoolVector<std::int64_t> counts(static_cast<std::size_t>(experts), 0);
  std::int64_t choices = 0;
  for (const std::int32_t e : selected.values<std::int32_t>()) {
    if (e < 0) continue;
    ++counts[static_cast<std::size_t>(e)];
    ++choices;
  }
  return {std::move(counts), choices};
}

}  // namespace

Var switch_auxiliary(Var scores, const Tensor& choice) {
  const std::int64_t experts = scores.size(1);
  const auto [counts, choices] = count(choice, experts);
  const Tensor fractions = Tensor::zeros({experts}, DType::f64);
  for (std::size_t e = 0; e < counts.size() && choices > 0; ++e) {
    fractions.write<double>()[e] = static_cast<double>(counts[e]) *
                                   (static_cast<double>(experts) / static_cast<double>(choices));
  }
  return sum(mean(scores, 0) * scores.tape().constant(fractions.to(scores.dtype())));
}

Var switch_auxiliary(const Routing& routing) {
  if (routing.merge.defined()) {
    const Var shares = mean(routing.merge, 0);
    return static_cast<double>(routing.scores.size(1)) * sum(mean(routing.scores, 0) * shares);
  }
  return switch_auxiliary(routing.scores, routing.selected);
}

Var z_loss(const Routing& routing) { return mean(square(logsumexp(routing.logits, 1))); }

Var squared_variation(Var x, double epsilon) {
  const Var m = mean(x);
  return mean(square(x - m)) / (square(m) + epsilon);
}

Tensor balanced_bias(const Tensor& bias, const Tensor& selected, double rate) {
  const std::int64_t experts = bias.numel();
  const auto [counts, choices] = count(selected, experts);
  const Tensor next = bias.to(DType::f64).clone();
  for (std::size_t e = 0; e < counts.size(); ++e) {
    const std::int64_t missing = choices - counts[e] * experts;
    const double sign = missing > 0 ? 1.0 : missing < 0 ? -1.0 : 0.0;
    next.write<double>()[e] += rate * sign;
  }
  return next.to(bias.dtype());
}

}  // namespace moegrad
