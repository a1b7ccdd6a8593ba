#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moegrad {

// Under sequential sampling without replacement (moe/probability/sets.h), for the logits o of one
// token, g = softmax(o), in doubles. The conditional Bernoulli distribution
// (moe/probability/conditional_bernoulli.h) has other inclusion probabilities: never mix the two.

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

}  // namespace moegrad
