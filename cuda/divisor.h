#pragma once

#include <cstdint>

#include "cuda/emulator/kernel.h"

namespace moegrad::cuda {

struct Quotient {
  std::int64_t times, rest;
};

// Division of n = 0 .. 2^63 - 1 by a number that the host knows. A device divides 64 bits in some 80
// instructions, and has a product's upper half in 10: n / d = floor(2n m / 2^64) / 2^l for
// m = ceil(2^(63+l) / d), l = ceil(log2 d) (Granlund and Montgomery 1994, theorem 4.2). A divisor 0,
// of shapes without elements, counts as 1.
class Divisor {
 public:
  explicit Divisor(std::int64_t by) : by_(by < 1 ? 1 : by) {
    __extension__ using Wide = unsigned __int128;
    const auto d = static_cast<Wide>(by_);
    while ((Wide(1) << shift_) < d) ++shift_;
    reciprocal_ = static_cast<std::uint64_t>(((Wide(1) << (63 + shift_)) + d - 1) / d);
  }
  __host__ __device__ std::int64_t by() const { return by_; }
  __device__ std::int64_t times(std::int64_t n) const {
    return static_cast<std::int64_t>(__umul64hi(static_cast<std::uint64_t>(n) * 2, reciprocal_) >>
                                     shift_);
  }
  __device__ Quotient of(std::int64_t n) const {
    const std::int64_t t = times(n);
    return {t, n - t * by_};
  }

 private:
  std::int64_t by_;
  std::uint64_t reciprocal_ = 0;
  int shift_ = 0;
};

}  // namespace moegrad::cuda
