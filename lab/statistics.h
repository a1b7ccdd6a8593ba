#pragma once

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

// The p-values of a table, each times the hypotheses that are left, largest so far (Holm 1979): any
// below 0.05 means so with a chance of error of 5 % for the whole table.
std::vector<double> holm(std::span<const double> p);

// What a comparison may say. `lower` and `higher`: the mean is, whatever the margin.
enum class Finding { lower, higher, equivalent, undecided };
std::string_view name_of(Finding finding);
// From p-values that holm() has corrected, at 5 %. What is both different and equivalent (a real
// difference within the margin) is equivalent.
Finding compared(const PairedDifference& difference, double p_different, double p_equivalent);

// Pairs of seeds that show a difference with 80 % power at 5 %: 7.85 (deviation / difference)^2 + 2.
double seeds_needed(double deviation, double difference);

}  // namespace moegrad
