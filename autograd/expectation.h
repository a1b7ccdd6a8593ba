#pragma once

#include <span>
#include <vector>

#include "autograd/tape.h"

namespace moegrad {

struct ExpectationOptions {
  // More outcomes than this: Monte Carlo instead of enumeration, and `exact` is false.
  std::int64_t max_outcomes = 100000;
  std::int64_t samples = 20000;
  // Compare the mean gradient with differences of the expected loss (two more expectations for
  // each element of each input).
  bool bias = true;
  Rng rng = {};
};

// The moments of a sampling program's loss L and of its gradient estimate g, over its draws.
struct Expectation {
  double loss = 0.0;                  // E[L]
  double loss_variance = 0.0;         // Var[L]
  std::vector<Tensor> gradient;       // E[g], by input
  std::vector<Tensor> variance;       // Var[g], by element
  std::vector<Tensor> true_gradient;  // d E[L] / d input by differences (when asked for)
  double bias = 0.0;                  // ||E[g] - true gradient||, all inputs
  double true_norm = 0.0;             // ||true gradient||
  double total_variance = 0.0;        // E ||g - E[g]||^2
  bool exact = true;                  // enumerated; else Monte Carlo
  std::int64_t outcomes = 0;          // enumerated outcomes, or samples
  // Monte Carlo only: the half width of the 95 % confidence interval of the loss and, for the
  // gradient, the largest |E[g] - true| in standard errors of both (z).
  double loss_confidence = 0.0;
  double largest_z = 0.0;
};

// Runs a program (which gives a scalar loss) once for each outcome of its discrete draws, weighted
// by the outcome's probability; continuous noise is the same in every run. Inputs are f64 or i32.
// The expected loss depends on the inputs through the probabilities as well as through the loss.
Expectation expectation(const Program& program, std::span<const Tensor> inputs,
                        const ExpectationOptions& options = {});
inline Expectation expectation(const Program& program, std::initializer_list<Tensor> inputs,
                               const ExpectationOptions& options = {}) {
  return expectation(program, std::span<const Tensor>(inputs.begin(), inputs.size()), options);
}

}  // namespace moegrad
