#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moegrad {

// Exact probabilities of sets of k of E experts, for the logits o of one token (any shift of them),
// in doubles. Everything is kept in logs and as sums of positive terms, 1 - sum_S g as the sum over
// the others: logits of +-1e4 lose nothing. g = softmax(o).
//
// Sequential sampling (Plackett-Luce; Gumbel top-k) draws one expert after the other from g over
// what is left.

// Of a set S of k distinct experts under sequential sampling without replacement.
struct SetProbability {
  double log_probability = 0.0;   // log P(S), of the unordered set
  std::vector<double> log_ratio;  // log R(S, i), R = P^{without i}(S \ i) / P(S), in the order of S
  std::vector<double> first;      // g_i R(S, i) = P(i was drawn first | S); they sum to 1
};
// The sum over all orders, by a recursion over the 2^k subsets of S. k <= 20.
SetProbability set_probability_by_orders(std::span<const double> logits,
                                         std::span<const std::int32_t> set);
// P(S) = int_0^1 prod_{i in S} (1 - v^(g_i/(1-g_S))) dv (Kool et al., arXiv:2002.06043), any k:
// with v = e^(-e^u) the trapezoidal rule, which converges exponentially (about 14 digits here).
SetProbability set_probability_by_integral(std::span<const double> logits,
                                           std::span<const std::int32_t> set);
// By orders for k <= 8, else by the integral.
SetProbability set_probability(std::span<const double> logits, std::span<const std::int32_t> set);

}  // namespace moegrad
