#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "tensor/error.h"

namespace moegrad {

// What the functions of this folder share. Sets of a recursion are bit masks.

inline bool holds(std::uint32_t set, std::size_t i) { return ((set >> i) & 1U) != 0; }

inline void require_k(std::span<const double> logits, std::int64_t k) {
  if (k < 1 || static_cast<std::size_t>(k) > logits.size()) {
    fail("set_probability", "k is {} with {} experts. Use 1 <= k <= {}.", k, logits.size(),
         logits.size());
  }
}

inline void require_at_most(std::size_t n, std::size_t limit, const char* what) {
  if (n > limit) {
    fail("set_probability", "{} {} are too many for a recursion over subsets. Use the integral.", n,
         what);
  }
}

// Of the trapezoidal rules. The narrowest integrands, of large k, are about 1/sqrt(k) wide.
inline double trapezoid_step(std::size_t k) {
  return 0.5 / std::sqrt(16.0 + static_cast<double>(k));
}

}  // namespace moegrad
