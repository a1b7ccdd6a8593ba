#include "moe/balance.h"

#include <algorithm>
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

namespace {

Tensor identity_like(Var x) {
  const Tensor v = x.value();
  const std::int64_t n = v.size(0);
  const Tensor ones = Tensor::full({n, 1}, 1.0, v.dtype(), v.device());
  return put_columns(ones, cycle({n, 1}, 1, n, v.device()), n);
}

// [E, D]: U(1 - e_i, 1 + e_i) for the rows R_i of r, within which no R_i is nearer to another's.
Tensor coupling_noise(Tape& tape, const Tensor& r, const Tensor& others) {
  const Tensor rows = r.to(DType::f64);
  const std::int64_t experts = rows.size(0);
  const Tensor products = rows.like({experts, experts});
  kernels(rows.device()).matmul(rows, false, rows, true, 0.0, products);
  const Tensor squares = reduce_rows(Reduction::sum_of_squares, rows);
  const auto number = [&](double v) { return scalar_like(rows, v); };
  // |R_i - R_j|^2, least of all others; of one expert alone nothing is near.
  const Tensor sums = compute<functor::Add>(squares, squares.reshape({1, experts}));
  const Tensor apart = compute<functor::Sub>(sums, compute<functor::Affine>(products, {2.0, 0.0}));
  const Tensor away = where(greater(others, scalar_like(others, 0.0)), compute<functor::Neg>(apart),
                            number(-1e300));
  const Tensor nearest = compute<functor::Clamp>(
      compute<functor::Neg>(reduce_rows(Reduction::max, away)), {0.0, 1e300});
  const Tensor ratio =
      compute<functor::Div>(nearest, compute<functor::Maximum>(squares, number(1e-300)));
  const Tensor e = compute<functor::Affine>(compute<functor::Sqrt>(ratio), {0.5, 0.0});
  const Tensor u = tape.rng().uniform(rows.shape(), DType::f64, rows.device(), -1.0, 1.0);
  return compute<functor::Affine>(compute<functor::Mul>(u, e), {1.0, 1.0});
}

}  // namespace

Var similarity_loss(Var router_weight) {
  const Var products = matmul(transpose(router_weight), router_weight);
  return sum(abs(products - router_weight.tape().constant(identity_like(products))));
}

Var coupling_loss(Var router_weight, Var w1, const Coupling& coupling) {
  Tape& tape = w1.tape();
  const std::int64_t experts = w1.size(0);
  const Var r = transpose(router_weight);
  const Tensor eye = identity_like(r);
  const Tensor others = compute<functor::Affine>(eye, {-1.0, 1.0});
  Var moved = r;
  if (coupling.noise && experts > 1) {
    const Tensor factors = tape.decisions().decide("erc", DType::f64, r.shape(), [&] {
      return coupling_noise(tape, r.value(), others.to(DType::f64));
    });
    moved = r * tape.constant(factors.to(r.dtype()));
  }
  Var m = norm(matmul(moved, w1), 2);  // [j, i]
  if (coupling.normalised) {
    const Var of_w1 = norm(reshape(w1, {experts, w1.size(1) * w1.size(2)}), 1, true);
    m = m / (of_w1 * reshape(norm(r, 1), {1, experts}));
  }
  const Var own = coupling.alpha * sum(m * tape.constant(eye), 1);
  const Var over = relu(m - reshape(own, {1, experts})) + relu(m - reshape(own, {experts, 1}));
  const auto pairs = static_cast<double>(experts * experts);
  return sum(over * tape.constant(others)) / pairs;
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

Tensor quantile_bias(const Tensor& bias, const Tensor& scores, std::int64_t k) {
  const std::int64_t experts = scores.size(1);
  if (k == experts) return bias;
  const Tensor s = scores.to(DType::f64);
  const Tensor biased = compute<functor::Add>(s, bias.to(DType::f64));
  const Tensor next = columns_of(largest_places(biased, k + 1), k, k + 1);
  const Tensor over = compute<functor::Sub>(s, take_columns(biased, next));
  const double share = static_cast<double>(k) / static_cast<double>(experts);
  const Tensor q = upper_quantiles(over, share);
  const Tensor mean = compute<functor::Affine>(reduce_rows(Reduction::sum, q),
                                               {1.0 / static_cast<double>(experts), 0.0});
  return compute<functor::Sub>(mean, q).reshape(bias.shape()).to(bias.dtype());
}

Tensor upper_quantiles(const Tensor& x, double share) {
  const Tensor columns = transposed(x.to(DType::f64));
  const double place = static_cast<double>(x.size(0) - 1) * share;
  const auto above = static_cast<std::int64_t>(place);
  const std::int64_t below = std::min(above + 1, x.size(0) - 1);
  const Tensor sorted = take_columns(columns, largest_places(columns, below + 1));
  const auto part = [&](std::int64_t at, double weight) {
    return compute<functor::Affine>(columns_of(sorted, at, at + 1), {weight, 0.0});
  };
  const double rest = place - static_cast<double>(above);
  return compute<functor::Add>(part(above, 1.0 - rest), part(below, rest)).reshape({1, x.size(1)});
}

OptionSpec balancing_option() {
  return option::choice("balancing", {"sign", "quantile"},
                        "how the bias moves: by bias-rate, or at once to where loads are even");
}

OptionSpec balance_option() {
  return option::number("balance", "coefficient of the balance loss")
      .initially("0.01")
      .from(0.0, 1e6)
      .tried({"0.7"});
}

}  // namespace moegrad
