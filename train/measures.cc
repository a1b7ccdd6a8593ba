#include "train/measures.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace moegrad {
namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

}  // namespace

double accuracy(std::span<const std::int32_t> guesses, std::span<const std::int32_t> labels) {
  if (labels.empty()) return kNotANumber;
  std::int64_t right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) right += guesses[i] == labels[i] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(labels.size());
}

double byte_perplexity(double loss, std::span<const std::int32_t> labels,
                       std::span<const std::int32_t> lengths) {
  double bytes = 0.0;
  for (const std::int32_t label : labels) bytes += lengths[static_cast<std::size_t>(label)];
  return std::exp(loss * static_cast<double>(labels.size()) / bytes);
}

double root_mean_square_error(std::span<const double> values,
                              std::span<const std::int32_t> labels) {
  if (labels.empty()) return kNotANumber;
  double sum = 0.0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double d = values[i] - labels[i];
    sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(labels.size()));
}

double area_under_curve(std::span<const double> scores, std::span<const std::int32_t> labels) {
  const auto nan = [](double s) { return std::isnan(s); };
  if (std::ranges::any_of(scores, nan)) return kNotANumber;
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return scores[i]; });
  double below = 0.0;  // rows of label 0 with a smaller score
  double pairs = 0.0;
  double ones = 0.0;
  for (std::size_t begin = 0; begin < order.size();) {
    double ties[2] = {0.0, 0.0};
    std::size_t end = begin;
    for (; end < order.size() && scores[order[end]] == scores[order[begin]]; ++end) {
      ties[labels[order[end]] != 0] += 1.0;
    }
    pairs += ties[1] * (below + 0.5 * ties[0]);
    below += ties[0];
    ones += ties[1];
    begin = end;
  }
  return ones > 0.0 && below > 0.0 ? pairs / (ones * below) : kNotANumber;
}

}  // namespace moegrad
