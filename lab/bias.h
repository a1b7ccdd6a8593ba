#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
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
  // The bias to the own expected loss takes some 40 times the passes of a row, for each element. true:
  // in every row; false: in none; unset: in exact ones where all elements can be moved once in
  // 2 max_outcomes passes.
  std::optional<bool> own = {};
  Device device = Device::cpu;  // where the layer is; decisions are enumerated on the host
};

// The router gradient of the token that is studied is, for a router whose logits are x W, that of
// its logits; for any other that of all trained parameters of the router. Two questions are asked
// of its mean E[G], which need not have the same answer:
//   How far is it from the dense layer's?
//     G* is the gradient of the softmax mixture of all experts,
//     with the router's logits. A layer that runs k experts has another loss: even an unbiased
//     estimator of that loss's gradient is away from G*.
//   How far is it from that of its own expected loss, d E[loss]?
//     0 is what a textbook calls unbiased.
// Each figure is the mean over the draws; NaN where it is undefined.
//   weight_bias_l1     ||E[w] - g||_1 for the softmax g of the logits
//   weight_mse         E ||w - g||^2
//   dense_bias         ||E[G] - G*||
//   gradient_variance  E ||G - E[G]||^2
//   dense_mse          E ||G - G*||^2
//   cosine, norm_ratio of E[G] to G*; over the draws where G* is not 0
//   own_bias           ||E[G] - d E[loss]||, and own_error: up to this it is not
//                      distinguishable from 0
struct BiasRow {
  BiasCase of;
  std::string gradient_of;  // "logits" or "router parameters"
  double weight_bias_l1 = 0.0;
  double weight_mse = 0.0;
  double dense_bias = 0.0;
  double gradient_variance = 0.0;
  double dense_mse = 0.0;
  double cosine = 0.0;
  double norm_ratio = 0.0;
  std::int64_t compared = 0;  // draws where G* is not 0
  double own_bias = 0.0;
  double own_error = 0.0;
  bool own_known = true;         // false: not measured, or without a reference
  double evaluations = 0.0;      // expert evaluations for a token, in training
  bool exact = true;             // every random number was enumerated; else Monte Carlo
  std::int64_t outcomes = 0;     // outcomes, or samples, of a draw
  double bias_confidence = 0.0;  // Monte Carlo: half width of the 95 % interval of E[G], as a norm
  Device device = Device::cpu;   // where it was computed

  // The bias to the own expected loss is more than the error of its reference.
  bool own_biased() const { return own_known && own_bias > own_error; }
};
// An object; null for what is undefined or not measured.
std::string to_json(const BiasRow& row);

// Every router and estimator with every number of experts, and so on. With none of both named, the
// pairs of bias_pairs(); of routers alone, with the estimator sparse; of estimators alone, with the
// routers of their checks.
struct BiasGrid {
  std::vector<std::string> routers = {}, estimators = {};
  std::vector<std::int64_t> experts = {4, 8, 16};
  std::vector<std::int64_t> active = {1, 2, 4};
  std::vector<double> scales = {0.5, 1.5, 4.0};
  std::vector<std::string> losses = bias_losses();
  std::map<std::string, std::string> options = {};
};

// The most passes of so many cases; an Error where these or the options are more than a study may
// take. For before the cases are made: their number, a product, is a double that cannot overflow.
double passes_of(double cases, const BiasOptions& options);

// Errors: a router without trained parameters, and whatever a layer refuses.
BiasRow measure_bias(const BiasCase& of, const BiasOptions& options = {});

// Router and estimator pairs that the study runs when none are named: each router whose logits are
// x W with the estimator sparse, and each other estimator with the first router of its checks.
std::vector<std::pair<std::string, std::string>> bias_pairs();

// The cells of a grid; an Error for an unknown name, and that of passes_of.
std::vector<BiasCase> bias_cases(const BiasGrid& grid, const BiasOptions& options);

// All cells, in order; those that a layer refuses are left out and reported to `skipped`.
// `progress` is told how many are done. The same rows at any number of threads; on another device
// than the cpu one cell at a time, and the cpu's rows within rounding.
std::vector<BiasRow> study_bias(const std::vector<BiasCase>& cases, const BiasOptions& options,
                                const std::function<void(std::size_t)>& progress,
                                std::vector<std::string>& skipped);

}  // namespace moegrad
