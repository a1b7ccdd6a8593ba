#pragma once

#include <span>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace moegrad {

struct ExpectationOptions {
  // Of the draws: more outcomes than these are sampled instead of enumerated.
  std::int64_t max_outcomes = 100000;
  // Monte Carlo, at least 2.
  std::int64_t samples = 20000;
  // Compare the mean gradient with differences of the expected loss (some twenty more expectations
  // for each element of each input; enumerated, some forty where it is biased).
  bool bias = true;
  // Another program of the same inputs, the derivative of whose expected loss is the true gradient:
  // of top-k's estimate the dense layer, say. Null: the program itself.
  const Program* truth = nullptr;
  Rng rng = {};
  // Where the program runs. Inputs and loss stay on the host.
  Device device = Device::cpu;
  // Numbers that the program writes while it runs; Expectation::also has their means.
  const std::vector<double>* also = nullptr;
};

// The moments of a sampling program's loss L and of its gradient estimate g, over all its random
// numbers.
//
// The program is run once for each outcome of its discrete draws (Decisions::categorical and
// bernoulli), weighted by the outcome's probability. That is exact where no other random number is
// used. Noise is noticed: numbers taken from the tape's rng, and results that change with its seed.
// It is integrated by Monte Carlo, one seed for each sample, with up to 16 outcomes of the draws
// enumerated within each; so are draws of too many outcomes.
//
// The reference is d E[L] / d input. Enumerated: by differences that stay within the domain and
// the cell (kinks, selections), with an estimate of their error. Monte Carlo: by differences with
// common random numbers, outcomes held and weighted by their probability at the moved point
// (autograd/mean_derivative.h).
struct Expectation {
  double loss = 0.0;                  // E[L]
  double loss_variance = 0.0;         // Var[L]
  std::vector<Tensor> gradient;       // E[g], by input
  std::vector<Tensor> variance;       // Var[g], by element
  std::vector<Tensor> true_gradient;  // d E[L] / d input (when asked for); NaN where unknown
  // How far gradient - true_gradient may be from the bias: error of the differences, rounding, and
  // under Monte Carlo 4 standard errors (more for few samples) and what no sample may have shown.
  // Infinite where unknown.
  std::vector<Tensor> error;
  double bias = 0.0;            // ||E[g] - true gradient||, all inputs
  double bias_error = 0.0;      // ||error||: a bias up to this is not distinguishable from 0
  double true_norm = 0.0;       // ||true gradient||
  double total_variance = 0.0;  // E ||g - E[g]||^2
  bool exact = true;            // every random number was enumerated; else Monte Carlo
  bool noise = false;           // the program uses random numbers outside of enumerated draws
  std::int64_t outcomes = 0;    // enumerated outcomes, or samples
  // Monte Carlo only: the half width of the 95 % confidence interval of the loss and, for the
  // gradient, the largest |E[g] - true| in quarters of `error` (z).
  double loss_confidence = 0.0;
  double largest_z = 0.0;
  std::vector<double> also;  // of ExpectationOptions::also

  std::string differing;  // the element whose bias is most larger than its error; empty: none
  std::string unknown;    // the first element whose bias is unknown (NaN), and why; empty: none

  // The bias is larger than what could be error, in some element that is known.
  bool biased() const { return !differing.empty(); }
  // Some lines for people.
  std::string text() const;
};

// The program gives a scalar loss, and the same for the same inputs, decisions and random numbers.
// Inputs are f64 or i32. Errors: f32 inputs; bias without floating inputs; a loss that is not one
// f64 number; fewer than 1 outcome or 2 samples; a program that depends on hidden state (of one
// that does so later the bias is unknown); what the program throws at the inputs themselves (at a
// moved point an Error means that the step leaves the domain).
Expectation expectation(const Program& program, std::span<const Tensor> inputs,
                        const ExpectationOptions& options = {});
inline Expectation expectation(const Program& program, std::initializer_list<Tensor> inputs,
                               const ExpectationOptions& options = {}) {
  return expectation(program, std::span<const Tensor>(inputs.begin(), inputs.size()), options);
}

}  // namespace moegrad
