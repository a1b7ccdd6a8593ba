#pragma once

#include <numeric>

#include "tests/kernels/kernel_checks.h"

namespace moegrad::test {

// Rows in groups, [total, k], and a matrix [k, m] of each.
struct GroupedRows {
  std::vector<std::int32_t> rows;  // of each group
  std::int64_t k, m;

  std::int64_t groups() const { return static_cast<std::int64_t>(rows.size()); }
  std::int64_t total() const { return std::accumulate(rows.begin(), rows.end(), std::int64_t{0}); }
  Tensor offsets() const {
    std::vector<std::int32_t> bounds = {0};
    for (const std::int32_t n : rows) bounds.push_back(bounds.back() + n);
    return Tensor::of({groups() + 1}, bounds);
  }
  // The group of each row.
  std::vector<std::int64_t> group_of() const {
    std::vector<std::int64_t> result;
    for (std::int64_t e = 0; e < groups(); ++e) {
      result.insert(result.end(), at(rows[at(e)]), e);
    }
    return result;
  }
};

}  // namespace moegrad::test
