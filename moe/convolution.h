#pragma once

#include <string>

#include "moe/experts.h"
#include "moe/router.h"

namespace moegrad {

// Convolutional experts, as DSelect-k's and COMET's of images (Hazimeh et al. 2021, arXiv:2106.03760;
// Ibrahim et al. 2023, arXiv:2306.02824). An expert on an image x of n x n pixels:
//
//   a = pool(relu(conv(x, w1) + b1))        5 x 5, 10 filters; pool: the largest of each 2 x 2
//   c = pool(relu(conv(a, w2) + b2))        5 x 5, 20 filters
//   h = c w3 + b3                           c as a row of m
//
// w1 [E, 10, 1, 5, 5], b1 [E, 10], w2 [E, 20, 10, 5, 5], b2 [E, 20], w3 [E, m, Dout], b3 [E, Dout].
struct ConvolutionSize {
  // Of so many pixels; an Error where they are no square, or one below 16 x 16.
  explicit ConvolutionSize(std::int64_t pixels);
  std::int64_t side;
  std::int64_t row;  // m
};
inline constexpr std::int64_t kFilterSide = 5;
inline constexpr std::int64_t kFirstFilters = 10;
inline constexpr std::int64_t kSecondFilters = 20;

// Adds the parameters of `count` of them, start + "w1" and so on: uniform within +- sqrt(1 / inputs of a
// filter), biases zero.
void declare_convolutional(const LayerSize& size, std::int64_t count, const std::string& start,
                           Parameters& parameters, const Rng& rng);

// Their outputs for the slots of the plan: tokens x [N, pixels] -> h [S, Dout], expert by expert. The
// host reads how many slots each has.
Var convolutional_experts(const Experts& experts, Var x, const Plan& plan);

struct ConvolutionalExperts {
  static constexpr std::string_view name = "convolutional_experts";
  static constexpr std::string_view summary = "a small convolutional network of each slot's expert";
  static constexpr Claim claim = Claim::exact_on_cell;
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
