#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moegrad {

// The distribution that gives a set of k of E experts the probability prod_S e^o / e_k(e^o), for
// the logits o of one token, in doubles. Its inclusion probabilities are not those of sequential
// sampling (moe/probability/inclusion.h): never mix the two.

// log e_j(e^o) for j = 0 .. k, the elementary symmetric polynomials.
std::vector<double> log_elementary_symmetric(std::span<const double> logits, std::int64_t k);
// mu_i = d log e_k / d o_i [E]: that expert i is in the set, under the conditional Bernoulli
// distribution (Ahmed et al., arXiv:2210.01941).
std::vector<double> conditional_bernoulli_marginals(std::span<const double> logits, std::int64_t k);
// Its exact sampling by a walk from the last expert to the first: [E, k+1], at [i, j] the
// probability of taking expert i when j are still to be taken from the experts 0 .. i.
std::vector<double> conditional_bernoulli_walk(std::span<const double> logits, std::int64_t k);

}  // namespace moegrad
