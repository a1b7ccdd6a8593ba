#pragma once

#include <cmath>
#include <limits>
#include <span>

namespace moegrad {

// Sums of positive numbers of any size, in logs: logits of +-1e4 lose nothing.

inline constexpr double kLogZero = -std::numeric_limits<double>::infinity();

// log(e^a + e^b)
inline double log_add(double a, double b) {
  const double largest = std::fmax(a, b);
  if (largest == kLogZero) return largest;
  return largest + std::log1p(std::exp(std::fmin(a, b) - largest));
}

inline double log_sum_exp(std::span<const double> x) {
  double largest = kLogZero;
  for (const double v : x) largest = std::fmax(largest, v);
  if (largest == kLogZero) return largest;
  double sum = 0.0;
  for (const double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

// log(1 - e^(-x)) for x = e^log_x > 0.
inline double log1mexp(double log_x) {
  if (log_x < -37.0) return log_x;  // 1 - e^-x = x (1 - x/2 + ...)
  const double x = std::exp(log_x);
  return x < 0.6931471805599453 ? std::log(-std::expm1(-x)) : std::log1p(-std::exp(-x));
}

}  // namespace moegrad
