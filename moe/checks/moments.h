#pragma once

#include <span>

#include "moe/registry.h"

namespace moegrad {

// Exact moments of a router for one token, over every outcome of its draws in training.
struct RouterMoments {
  double weight_bias_l1 = 0.0;     // ||E[w] - g||_1 for the softmax g of the logits
  double weight_mse = 0.0;         // E ||w - g||^2
  std::vector<double> mean;        // E[w], by expert
  double gradient_bias = 0.0;      // ||E[gradient] - dense gradient||
  double gradient_variance = 0.0;  // E ||gradient - E[gradient]||^2
  double cosine = 0.0;             // between E[gradient] and the dense gradient
  double norm_ratio = 0.0;         // ||E[gradient]|| / ||dense gradient||
  std::int64_t outcomes = 0;
};

// For logits of one token and the loss sum_i w_i outcomes_i, linear in the weights; the gradient is
// that of the logits, and the dense one g_q (a_q - sum_j g_j a_j) for a = outcomes. Continuous
// noise is integrated by the nodes given; without any it is the same in every outcome.
RouterMoments router_moments(const Router& router, const std::vector<double>& logits,
                             const std::vector<double>& outcomes, std::int64_t active,
                             std::span<const NoiseNode> noise = {});

std::vector<double> softmax_of(const std::vector<double>& logits);

// The fixed case of the recorded figures: logits of deviation 1.5 and outcomes of deviation 1.
std::vector<double> recorded_logits(std::int64_t experts);
std::vector<double> recorded_outcomes(std::int64_t experts);

}  // namespace moegrad
