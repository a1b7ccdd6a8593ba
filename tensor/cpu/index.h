#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/error.h"

namespace moegrad::cpu {

// One of the n indices that lies outside [low, limit); nothing where all lie within.
inline std::optional<std::int32_t> index_outside(const std::int32_t* index, std::int64_t n,
                                                 std::int64_t low, std::int64_t limit) {
  std::int32_t smallest = static_cast<std::int32_t>(low);
  std::int32_t largest = smallest;
  for (std::int64_t i = 0; i < n; ++i) {
    smallest = std::min(smallest, index[i]);
    largest = std::max(largest, index[i]);
  }
  if (n == 0 || (smallest >= low && largest < limit)) return std::nullopt;
  return smallest < low ? smallest : largest;
}

// An error unless every one of the n indices lies in [low, limit).
inline void require_indices(std::string_view operation, const std::int32_t* index, std::int64_t n,
                            std::int64_t low, std::int64_t limit) {
  const std::optional<std::int32_t> outside = index_outside(index, n, low, limit);
  if (!outside) return;
  fail(operation, "an index is {}, outside [{}, {}). Check the indices against the sizes.",
       *outside, low, limit);
}

}  // namespace moegrad::cpu
