#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/storage.h"

namespace moegrad::cpu {

// Neither NaN nor infinite: not every bit of the exponent is set.
template <class T>
bool is_finite(T x) {
  return x - x == T(0);
}

template <class T>
bool all_finite(const T* x, std::int64_t n) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr Bits kExponent =
      sizeof(T) == 8 ? static_cast<Bits>(0x7ff0000000000000U) : static_cast<Bits>(0x7f800000U);
  Bits found = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof(T));
    found |= static_cast<Bits>((bits & kExponent) == kExponent);
  }
  return found == 0;
}

// A copy of x with 0 for what is not finite. A product with a factor whose zeros exclude terms is
// one with this copy, and then the terms of what is not finite where they are not excluded: 0 * NaN
// would reach the sum.
template <class T>
PoolVector<T> finite_part(const T* x, std::int64_t n) {
  PoolVector<T> copy(x, x + n);
  std::replace_if(
      copy.begin(), copy.end(), [](T value) { return !is_finite(value); }, T(0));
  return copy;
}

}  // namespace moegrad::cpu
