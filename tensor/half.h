#pragma once

#include <bit>
#include <cstdint>

// The 16-bit floating types of files, as f32, which holds each of their numbers exactly.
namespace moegrad {

// The number that a bfloat16 is: the upper half of an f32.
inline float from_bf16(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

// The number that an IEEE binary16 is: 1 bit of sign, 5 of exponent (bias 15), 10 of fraction. An
// f32 holds each one exactly; a NaN keeps its bits.
inline float from_f16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0) {  // 0 and subnormal numbers: fraction 2^-24
    const float size = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(size));
  }
  const std::uint32_t wide = exponent == 0x1f ? 0xffU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

}  // namespace moegrad
