#include "moe/balance.h"

#include <cmath>

#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// Of the sum of a token's shares: rounding in f32 over thousands of experts stays below.
constexpr double kNearOne = 1e-3;

void require_shares(const Tensor& shares) {
  const std::int64_t tokens = shares.size(0);
  const Tensor sums = Tensor::empty({tokens}, shares.dtype(), Device::cpu);
  kernels(shares.device()).reduce(Reduction::sum, shares, {tokens, shares.size(1), 1}, sums);
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (std::abs(sums.at(t) - 1.0) > kNearOne) {
      fail("balance",
           "the scores of token {} sum to {}, not 1. A router with other scores gives their "
           "logarithm as Routing::log_scores.",
           t, sums.at(t));
    }
  }
}

}  // namespace

Tensor expert_counts(const Tensor& selected, std::int64_t experts) {
  return expert_counts(selected, experts, Sequences(selected.size(0)));
}
Tensor expert_counts(const Tensor& selected, std::int64_t experts, const Sequences& sequences) {
  Tensor counts = Tensor::zeros({sequences.count(), experts}, DType::f64, Device::cpu);
  const std::int64_t k = selected.rank() == 1 ? 1 : selected.size(1);
  const std::int32_t* const ids = selected.data<std::int32_t>();
  for (std::int64_t i = 0; i < selected.numel(); ++i) {
    if (ids[i] >= 0) counts.write<double>()[sequences.of(i / k) * experts + ids[i]] += 1.0;
  }
  return counts;
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
  require_shares(shares.value());
  const std::int64_t experts = shares.size(1);
  const Tensor f = expert_counts(choice, experts, sequences);
  for (std::int64_t g = 0; g < f.size(0); ++g) {
    double* const row = f.write<double>() + g * experts;
    double choices = 0.0;
    for (std::int64_t e = 0; e < experts; ++e) choices += row[e];
    for (std::int64_t e = 0; e < experts && choices > 0.0; ++e) {
      row[e] *= static_cast<double>(experts) / choices;
    }
  }
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
  double choices = 0.0;
  for (const double count : counts.values<double>()) choices += count;
  const Tensor next = bias.to(DType::f64).clone();
  for (std::int64_t e = 0; e < experts; ++e) {
    const double missing = choices - counts.data<double>()[e] * static_cast<double>(experts);
    const double sign = missing > 0.0 ? 1.0 : missing < 0.0 ? -1.0 : 0.0;
    next.write<double>()[e] += rate * sign;
  }
  return next.to(bias.dtype());
}

OptionSpec balance_option() {
  return option::number("balance", "coefficient of the balance loss")
      .initially("0.01")
      .from(0.0, 1e6)
      .tried({"0.7"});
}

}  // namespace moegrad
