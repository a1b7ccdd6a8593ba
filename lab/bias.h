#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moe/layer.h"

namespace moegrad {

// One cell of the study: a router and an estimator on a layer of E experts, for one kind of loss.
struct BiasCase {
  std::string router;
  std::string estimator = "sparse";
  std::int64_t experts = 8;
  std::int64_t active = 2;
  double scale = 1.5;           // standard deviation of the logits
  std::string loss = "linear";  // one of bias_losses()
  std::map<std::string, std::string> options = {};
};

// Of the output y of one token: linear <a, y>, quadratic |y - t|^2 / 2, cubic sum (y - t)^3 / 3,
// mlp v tanh(W y + c); a, t, v, W, c random and fixed.
const std::vector<std::string>& bias_losses();

struct BiasOptions {
  static constexpr std::int64_t kMost = 1'000'000;  // draws, outcomes, samples
  // Cases x draws x the larger of outcomes and samples, which are passes through a layer. At
  // 100,000 passes a second, as with 16 experts, they take three hours.
  static constexpr std::int64_t kMostPasses = 1'000'000'000;
  std::int64_t draws = 2;  // random logits, tokens and losses that a row is the mean over
  std::uint64_t seed = 1;
  std::int64_t max_outcomes = 1000;  // more than these: Monte Carlo
  std::int64_t samples = 500;
};

// The router gradient is that of the token's logits. Each figure is the mean over the draws of
//   weight_bias_l1     ||E[w] - g||_1 for the softmax g of the logits
//   weight_mse         E ||w - g||^2
//   gradient_bias      ||E[G] - G*|| for the gradient G* of the dense softmax layer
//   gradient_variance  E ||G - E[G]||^2
//   gradient_mse       E ||G - G*||^2
//   cosine, norm_ratio of E[G] to G*; over the draws where G* is not 0, NaN where there is none
//   own_bias           ||E[G] - d E[loss] / d logits||: against the estimator's own expected loss
struct BiasRow {
  BiasCase of;
  double weight_bias_l1 = 0.0;
  double weight_mse = 0.0;
  double gradient_bias = 0.0;
  double gradient_variance = 0.0;
  double gradient_mse = 0.0;
  double cosine = 0.0;
  double norm_ratio = 0.0;
  std::int64_t compared = 0;  // draws where G* is not 0
  double own_bias = 0.0;
  bool own_known = true;         // false: not enumerated, or too many outcomes for differences
  double evaluations = 0.0;      // expert evaluations for a token, in training
  bool exact = true;             // every outcome was enumerated; else Monte Carlo
  std::int64_t outcomes = 0;     // outcomes, or samples, of a draw
  double bias_confidence = 0.0;  // Monte Carlo: half width of the 95 % interval of E[G], as a norm
};

// The most passes of so many cases; an Error where these or the options are more than a study may
// take. For before the cases are made: their number, a product, is a double that cannot overflow.
double passes_of(double cases, const BiasOptions& options);

// Errors: a router whose logits cannot be set, and whatever a layer refuses.
BiasRow measure_bias(const BiasCase& of, const BiasOptions& options = {});

// Router and estimator pairs that the study runs when none are named: each router whose logits can
// be set with the estimator sparse, and each other estimator with the first router of its checks.
std::vector<std::pair<std::string, std::string>> bias_pairs();

// All cells, in order; those that a layer refuses are left out and reported to `skipped`.
// `progress` is told how many are done. The same rows at any number of threads.
std::vector<BiasRow> study_bias(const std::vector<BiasCase>& cases, const BiasOptions& options,
                                const std::function<void(std::size_t)>& progress,
                                std::vector<std::string>& skipped);

}  // namespace moegrad
