// Sums over all orders and all sets, written from the definitions.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/rng.h"

namespace moegrad::test {

using Set = std::vector<std::int32_t>;

inline std::vector<double> random_logits(std::int64_t experts, std::uint64_t seed,
                                         double scale = 1.3) {
  return Rng{seed, 8, 0}.normal({experts}, DType::f64, 0.0, scale).to_vector();
}

inline std::vector<double> softmax(const std::vector<double>& o) {
  double sum = 0.0;
  std::vector<double> g;
  for (const double v : o) sum += std::exp(v);
  for (const double v : o) g.push_back(std::exp(v) / sum);
  return g;
}

inline double product_of_draws(const std::vector<double>& g, const Set& order) {
  double p = 1.0;
  std::vector<double> left = g;
  for (const std::int32_t i : order) {
    double& drawn = left[static_cast<std::size_t>(i)];
    p *= drawn / std::accumulate(left.begin(), left.end(), 0.0);
    drawn = 0.0;
  }
  return p;
}

inline double over_all_orders(const std::vector<double>& g, Set set) {
  std::sort(set.begin(), set.end());
  double sum = 0.0;
  do {
    sum += product_of_draws(g, set);
  } while (std::next_permutation(set.begin(), set.end()));
  return sum;
}

inline std::vector<Set> sets_of(std::int32_t experts, std::size_t k) {
  std::vector<Set> sets;
  for (std::uint32_t mask = 0; mask < (1U << experts); ++mask) {
    Set set;
    for (std::int32_t i = 0; i < experts; ++i) {
      if (((mask >> i) & 1U) != 0) set.push_back(i);
    }
    if (set.size() == k) sets.push_back(set);
  }
  return sets;
}

inline void check_close(double a, double b, double tolerance) {
  CAPTURE(a);
  CAPTURE(b);
  CHECK(std::abs(a - b) <= tolerance * std::fmax(std::abs(a), std::abs(b)));
}

}  // namespace moegrad::test
