#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "tensor/math.h"
#include "tensor/tensor.h"

namespace moegrad {

// Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words for a 64-bit key and a 128-bit counter.
MOEGRAD_HD constexpr std::array<std::uint32_t, 4> philox(std::uint64_t key,
                                                         std::uint64_t counter_low,
                                                         std::uint64_t counter_high) {
  std::array<std::uint32_t, 4> c = {
      static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
      static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// A standard normal number of two uniform ones (Box and Muller 1958), a Gumbel number of one.
MOEGRAD_HD double normal_of(double u, double v) {
  return std::sqrt(-2.0 * math::log(u)) * math::cos_of_turns(v);
}
MOEGRAD_HD double gumbel_of(double u) { return -math::log(-math::log(u)); }

// Random numbers by counter: number i of (seed, stream) is a function of these three alone, so it
// is the same on every device, in every order and at every thread count.
struct Rng {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  std::uint64_t position = 0;  // the next unused number

  // A generator of its own for a named purpose; does not move this one.
  Rng split(std::uint64_t other_stream) const { return {seed, other_stream, 0}; }
  // The same, for one of many: by name, beside this stream.
  Rng named(std::string_view name) const;
  // Takes the next n numbers: returns the generator that stands at the first of them.
  Rng take(std::uint64_t n) {
    const Rng at = *this;
    position += n;
    return at;
  }
  // 64 random bits for the number `index` places ahead.
  MOEGRAD_HD std::uint64_t bits(std::uint64_t index) const {
    const std::uint64_t i = position + index;
    const auto words = philox(seed, i / 2, stream);
    const std::size_t half = (i % 2) * 2;
    return (std::uint64_t{words[half + 1]} << 32) | words[half];
  }
  // In (0, 1): never 0, never 1, so that log is finite.
  MOEGRAD_HD double uniform(std::uint64_t index) const {
    return (static_cast<double>(bits(index) >> 12) + 0.5) * 0x1.0p-52;
  }

  // The next numbers as a tensor of a device: uniform in [low, high), normal, Gumbel
  // (-log(-log u)).
  Tensor uniform(const Shape& shape, DType dtype, Device device, double low = 0.0,
                 double high = 1.0);
  Tensor normal(const Shape& shape, DType dtype, Device device, double mean = 0.0,
                double deviation = 1.0);
  Tensor gumbel(const Shape& shape, DType dtype, Device device);
  // On the host.
  Tensor uniform(const Shape& shape, DType dtype, double low = 0.0, double high = 1.0) {
    return uniform(shape, dtype, Device::cpu, low, high);
  }
  Tensor normal(const Shape& shape, DType dtype, double mean = 0.0, double deviation = 1.0) {
    return normal(shape, dtype, Device::cpu, mean, deviation);
  }
  // A permutation of 0..n-1 (Fisher-Yates), i32 [n], on the host.
  Tensor permutation(std::int64_t n);

  friend bool operator==(const Rng&, const Rng&) = default;
};

}  // namespace moegrad
