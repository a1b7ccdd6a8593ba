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
// what is left. The conditional Bernoulli distribution gives a set the probability
// prod_S e^o / e_k(e^o). Their inclusion probabilities differ: never mix the two.

double log_sum_exp(std::span<const double> x);
// log(1 - e^(-x)) for x = e^log_x > 0.
double log1mexp(double log_x);

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

// log pi_i [E]: that expert i is among the k of sequential sampling without replacement.
// The sum of P(S) over all sets, by a recursion over subsets. E <= 20.
std::vector<double> log_inclusion_by_subsets(std::span<const double> logits, std::int64_t k);
// Any E: pi_i = P(fewer than k others come before i) for exponential arrival times of rates g,
// integrated over the time of i, about 14 digits; O(E k) for each of about 85 sqrt(16 + k) nodes.
std::vector<double> log_inclusion_by_integral(std::span<const double> logits, std::int64_t k);
// k = 2, any E >= 2: a closed form, O(E).
std::vector<double> log_inclusion_of_two(std::span<const double> logits);
// log g for k = 1, the closed form for k = 2, by subsets for E <= 10, else by the integral.
std::vector<double> log_inclusion(std::span<const double> logits, std::int64_t k);

// log e_j(e^o) for j = 0 .. k, the elementary symmetric polynomials.
std::vector<double> log_elementary_symmetric(std::span<const double> logits, std::int64_t k);
// mu_i = d log e_k / d o_i [E]: that expert i is in the set, under the conditional Bernoulli
// distribution (Ahmed et al., arXiv:2210.01941).
std::vector<double> conditional_bernoulli_marginals(std::span<const double> logits, std::int64_t k);
// Its exact sampling by a walk from the last expert to the first: [E, k+1], at [i, j] the
// probability of taking expert i when j are still to be taken from the experts 0 .. i.
std::vector<double> conditional_bernoulli_walk(std::span<const double> logits, std::int64_t k);

}  // namespace moegrad
