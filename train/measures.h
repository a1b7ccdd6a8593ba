#pragma once

#include <cstdint>
#include <span>

namespace moegrad {

// The measures of the field, of predictions and what is true; NaN where they are not defined.

// The part of the rows whose largest logit is that of the label; ties: the lowest class.
double accuracy(std::span<const std::int32_t> guesses, std::span<const std::int32_t> labels);
// exp(the loss in nats a byte) of text whose mean loss, in nats a piece, is `loss`: of pieces of any
// lengths, and so of any vocabulary, one number to compare.
double byte_perplexity(double loss, std::span<const std::int32_t> labels,
                       std::span<const std::int32_t> lengths);
// sqrt(mean (value - label)^2)
double root_mean_square_error(std::span<const double> values, std::span<const std::int32_t> labels);
// The area under the ROC curve: the chance that a row of label 1 has a larger score than one of
// label 0, ties counted half (Hanley & McNeil 1982). NaN where one of the labels is not there.
double area_under_curve(std::span<const double> scores, std::span<const std::int32_t> labels);

}  // namespace moegrad
