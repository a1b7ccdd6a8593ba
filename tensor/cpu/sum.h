#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "tensor/storage.h"

namespace moegrad::cpu {

inline constexpr std::int64_t kLanes = 16;
// Summands that are added one to the other in f32. A running sum of equal numbers is off by up to
// half of this times 2^-24; sums of blocks are added in f64.
inline constexpr std::int64_t kSumBlock = 64;
inline constexpr std::int64_t kLaneBlock = kLanes * kSumBlock;
// Up to so many, one running sum is left as it is.
inline constexpr std::int64_t kShortSum = 256;

// The sum over [begin, end) of lane_blocks below, in sixteen sums side by side that are added in
// pairs at the end.
template <class T, class F>
[[gnu::always_inline]] inline T lane_block(std::int64_t begin, std::int64_t end, F& f) {
  T lanes[kLanes] = {};
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    f(i, std::integral_constant<std::int64_t, kLanes>(), lanes);
  }
  if (i < end) f(i, end - i, lanes);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// The same for many blocks. Apart, so that the loop of a short sum stays in its caller.
template <class T, class F>
[[gnu::noinline]] T long_lane_blocks(std::int64_t n, F& f) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; i += kLaneBlock) {
    sum += static_cast<double>(lane_block<T>(i, std::min(n, i + kLaneBlock), f));
  }
  return static_cast<T>(sum);
}

// A sum over [0, n) in a fixed order, quick, and more exact than one running sum. f(first, count,
// lanes) adds what stands at first + l to lanes[l], for l below count: kLanes as a constant, or
// less at the end.
template <class T, class F>
T lane_blocks(std::int64_t n, F&& f) {
  return n <= kLaneBlock ? lane_block<T>(0, n, f) : long_lane_blocks<T>(n, f);
}

// The sum of f(i) for i in [0, n).
template <class T, class F>
T lane_sum(std::int64_t n, F&& f) {
  return lane_blocks<T>(n, [&](std::int64_t first, auto count, T* lanes) {
    for (std::int64_t lane = 0; lane < count; ++lane) lanes[lane] += f(first + lane);
  });
}

// Running sums side by side: after each `block` summands they go to sums in f64, where there are
// more summands than kShortSum.
template <class T>
class LongSums {
 public:
  // The caller adds to `sums` [width], which start at zero.
  LongSums(T* sums, std::int64_t width, std::int64_t summands, std::int64_t block = kSumBlock)
      : sums_(sums), width_(width), block_(block), long_(summands > kShortSum) {
    if (long_) total_.assign(static_cast<std::size_t>(width), 0.0);
    std::fill(sums_, sums_ + width_, T(0));
  }
  // After each summand.
  void added() {
    if (long_ && ++count_ == block_) flush();
  }
  // The whole sums are in `sums` from then on.
  void finish() {
    if (!long_) return;
    flush();
    for (std::int64_t i = 0; i < width_; ++i) {
      sums_[i] = static_cast<T>(total_[static_cast<std::size_t>(i)]);
    }
  }

 private:
  void flush() {
    for (std::int64_t i = 0; i < width_; ++i) {
      total_[static_cast<std::size_t>(i)] += static_cast<double>(sums_[i]);
      sums_[i] = T(0);
    }
    count_ = 0;
  }

  T* sums_;
  std::int64_t width_, block_;
  bool long_;
  std::int64_t count_ = 0;
  PoolVector<double> total_;
};

}  // namespace moegrad::cpu
