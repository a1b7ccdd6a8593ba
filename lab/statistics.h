#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

namespace moegrad {

// Is a difference between two ways to train real? Seeds are paired: run i of both has the same
// initial values, the same order of data and the same validation set, so that d_i = a_i - b_i varies
// less than either.

// Of differences d_1 .. d_n: their mean, its standard error s / sqrt(n), and Student's t interval
// mean +- t(0.975, n - 1) s / sqrt(n). NaN where they are not defined (n < 2).
struct PairedDifference {
  int pairs = 0;
  double mean = 0.0;
  double error = 0.0;
  double low = 0.0, high = 0.0;
  double deviation = 0.0;    // s
  double p_different = 1.0;  // of the two-sided t test against mean 0
  double p_equivalent =
      1.0;  // of two one-sided tests (Schuirmann 1987): the larger of those against
            // mean <= -margin and mean >= margin
};
PairedDifference paired_difference(std::span<const double> a, std::span<const double> b,
                                   double margin);
// Of the seeds of which both have ended: a NaN stands for a run that has not.
PairedDifference difference_of_ended(std::span<const double> a, std::span<const double> b,
                                     double margin);

// The p-values of a table, each times the hypotheses that are left, largest so far (Holm 1979): any
// below 0.05 means so with a chance of error of 5 % for the whole table. Where at most `most_true` of
// the hypotheses can be true at once, each times so many at most (Shaffer 1986).
std::vector<double> holm(std::span<const double> p,
                         std::size_t most_true = std::numeric_limits<std::size_t>::max());

// What a comparison may say. `lower` and `higher`: the mean is, whatever the margin.
enum class Finding { lower, higher, equivalent, undecided };
std::string_view name_of(Finding finding);
// From p-values that holm() has corrected, at 5 %. What is both different and equivalent (a real
// difference within the margin) is equivalent.
Finding compared(const PairedDifference& difference, double p_different, double p_equivalent);

// Two classifiers of the same examples (McNemar 1947): of the n examples that one alone has right, are
// they as often a's as b's? p = min(1, 2 P(X <= min(only_a, only_b))), X the heads of n coins: exact.
// What both have right, or neither, says nothing. An Error for different numbers of examples.
struct PairedGuesses {
  std::int64_t only_a = 0;  // right where b is wrong
  std::int64_t only_b = 0;
  double p = 1.0;
};
PairedGuesses paired_guesses(std::span<const std::int32_t> a, std::span<const std::int32_t> b,
                             std::span<const std::int32_t> labels);

// Pairs of seeds that show a difference with 80 % power at 5 %: 7.85 (deviation / difference)^2 + 2.
double seeds_needed(double deviation, double difference);

}  // namespace moegrad
