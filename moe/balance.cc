#include "moe/balance.h"

#include <limits>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

Tensor expert_counts(const Tensor& selected, std::int64_t experts) {
  return expert_counts(selected, experts, Sequences(selected.size(0)));
}
Tensor expert_counts(const Tensor& selected, std::int64_t experts, const Sequences& sequences) {
  const Device device = selected.device();
  const Tensor counts = Tensor::empty({sequences.count(), experts}, DType::i32, device);
  Tensor group;
  if (sequences.count() > 1) group = sequences.of_tokens(selected.size(0), device);
  kernels(device).count(selected, group, counts);
  return counts.to(DType::f64);
}

Var sum_over_tokens(Var x) { return sum(x, 0); }
Var mean_over_tokens(Var x) { return mean(x, 0); }
Var mean_over_tokens(Var x, const Sequences& sequences) {
  const Var rows = sequences.split(x);
  if (!sequences.lengths().defined()) return mean(rows, 1);
  return sum(rows, 1) / x.tape().constant(sequences.lengths().to(x.dtype()));
}

Var switch_auxiliary(Var shares, const Tensor& choice) {
  return switch_auxiliary(shares, choice, Sequences(choice.size(0)));
}

Var switch_auxiliary(Var shares, const Tensor& choice, const Sequences& sequences) {
  const std::int64_t experts = shares.size(1);
  const Tensor counts = expert_counts(choice, experts, sequences);
  // Of a sequence without a choice: 0.
  const Tensor choices = compute<functor::Clamp>(reduce_rows(Reduction::sum, counts),
                                                 {1.0, std::numeric_limits<double>::infinity()});
  const Tensor all = scalar_like(counts, static_cast<double>(experts));
  const Tensor f = compute<functor::Mul>(counts, compute<functor::Div>(all, choices));
  const Var fractions = shares.tape().constant(f.to(shares.dtype()));
  return mean(sum(mean_over_tokens(shares, sequences) * fractions, 1));
}

Var switch_auxiliary(const Routing& routing) {
  const Var shares = routing.log_scores.defined() ? softmax(routing.log_scores) : routing.scores;
  if (routing.merge.defined()) {
    const Tensor of_token = routing.selected.reshape({routing.selected.numel()});
    const Var merged = mean_over_tokens(gather_rows(routing.merge, of_token));
    return static_cast<double>(shares.size(1)) * sum(mean_over_tokens(shares) * merged);
  }
  return switch_auxiliary(shares, routing.choice.defined() ? routing.choice : routing.selected);
}

Var z_loss(const Routing& routing) {
  return mean_over_tokens(square(logsumexp(routing.logits, 1)));
}

Var squared_variation(Var x, double epsilon) {
  const Var m = mean(x);
  return mean(square(x - m)) / (square(m) + epsilon);
}

Tensor balanced_bias(const Tensor& bias, const Tensor& selected, double rate) {
  const std::int64_t experts = bias.numel();
  const Tensor counts = expert_counts(selected, experts);
  const Tensor missing =
      compute<functor::Sub>(reduce_rows(Reduction::sum, counts),
                            compute<functor::Affine>(counts, {static_cast<double>(experts), 0.0}));
  const Tensor next = bias.to(DType::f64).clone();
  kernels(next.device()).accumulate(rate, compute<functor::Sign>(missing), next);
  return next.to(bias.dtype());
}

OptionSpec balance_option() {
  return option::number("balance", "coefficient of the balance loss")
      .initially("0.01")
      .from(0.0, 1e6)
      .tried({"0.7"});
}

}  // namespace moegrad
