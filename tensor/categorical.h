#pragma once

#include <cmath>
#include <cstdint>

#include "tensor/error.h"

namespace moegrad {

// An error unless p(0) .. p(n-1), those of this row, are probabilities of which one is possible and
// which add up to 1.
template <class P>
void require_distribution(std::int64_t row, std::int64_t n, P&& p) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double p_i = p(i);
    if (!(p_i >= 0.0)) {
      fail("categorical", "row {} holds the probability {}. Use 0 or more.", row, p_i);
    }
    sum += p_i;
  }
  if (sum == 0.0) {
    fail("categorical", "row {} holds no positive probability. Give each row a sum of 1.", row);
  }
  if (!(std::abs(sum - 1.0) <= 1e-5)) {
    fail("categorical", "row {} has probabilities that add up to {}. Divide by the sum.", row, sum);
  }
}

}  // namespace moegrad
