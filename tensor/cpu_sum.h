#pragma once

#include <cstdint>
#include <type_traits>

namespace moegrad::cpu {

inline constexpr std::int64_t kLanes = 16;

// A sum over [0, n) in sixteen sums side by side that are added in pairs at the end: a fixed order,
// quick, and more exact than one running sum. f(first, count, lanes) adds what stands at first + l
// to lanes[l], for l below count: kLanes as a constant, or less at the end.
template <class T, class F>
T lane_blocks(std::int64_t n, F&& f) {
  T lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    f(i, std::integral_constant<std::int64_t, kLanes>(), lanes);
  }
  if (i < n) f(i, n - i, lanes);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// The sum of f(i) for i in [0, n).
template <class T, class F>
T lane_sum(std::int64_t n, F&& f) {
  return lane_blocks<T>(n, [&](std::int64_t first, auto count, T* lanes) {
    for (std::int64_t lane = 0; lane < count; ++lane) lanes[lane] += f(first + lane);
  });
}

}  // namespace moegrad::cpu
