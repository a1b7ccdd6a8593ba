#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace moegrad {

// What is within so many standard errors of many samples is not told from 0 (of few: more).
constexpr double kStandardErrors = 4.0;

// Of every sample's loss F, with the same random numbers at h, 0 and -h.
struct SampleDifferences {
  std::vector<double> slope;   // (F(h) - F(-h)) / 2h
  std::vector<double> bend;    // (F(h) + F(-h) - 2 F(0)) / h
  std::vector<double> weight;  // the slope of the sample's weight, whose mean is 0; empty: none
};

// d E[F] / dh at 0 for samples that may jump as h moves: a number compared with a threshold.
struct MeanDerivative {
  double value = 0.0;
  double error = 0.0;             // of (mean of own) - value; infinite where nothing is known
  const char* unknown = nullptr;  // why nothing is known
};

struct MeanDerivativeOptions {
  double first = 0.4;              // the widest h
  std::span<const double> losses;  // F(0) of each sample
  double size = 0.0;               // E |F|, for the rounding
  double moved = 0.0;              // |x dE[F] / dx| for an input x that is moved and rounded
  bool may_jump = true;            // false: the losses are smooth in h for certain
};

// `own`: the derivative of each sample as an estimator gives it; value is paired with it, so that
// what both have in common does not count as error. differences(h): nothing where h cannot be used.
//
// A sample that jumps within (-h, h) adds jump / 2h: the mean of the slopes is unbiased but for
// O(h^2), and their variance grows as 1/h. Smooth samples have a variance that does not depend on
// h. So widths shrink from the first by 1.8; windows of up to four are extrapolated to h = 0 (in
// h^2); taken is the one with the least bound. It is the sum of
// - sampling: as many standard errors as are exceeded under Student's t as rarely as 4 of a normal
//   number, and the furthest of the n samples once more, with the probability 8 / n (e^-8);
// - jumps that no sample showed: of such a probability, and of the height that the losses tell; all
//   losses alike: unknown;
// - truncation: the disagreement of windows, and kinks of the mean.
// The standard error is not believed where it is smaller than the 1/h law makes it. A window is not
// believed further than narrower slopes agree with it, one 10^5 times narrower than the first among
// them; nor where its bends do not vanish with h: there the mean has a kink; nor at all where its
// slopes still grow as 1/h.
MeanDerivative mean_derivative(
    const std::function<std::optional<SampleDifferences>(double)>& differences,
    std::span<const double> own, const MeanDerivativeOptions& options);

}  // namespace moegrad
