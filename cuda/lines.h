#pragma once

#include "cuda/launch.h"
#include "tensor/kernels.h"
#include "tensor/math.h"

// Lines along the middle axis of [outer, n, inner], each gone through by a team: a warp where the
// elements lie side by side and are many, else one thread.
namespace moegrad::cuda {

struct Team {
  unsigned lane;   // of this thread
  unsigned lanes;  // 32, or 1

  template <class T, class F>
  __device__ T fold(T value, F f) const {
    return lanes == 1 ? value : warp_fold(value, f);
  }
  template <class T>
  __device__ T sum(T value) const {
    return fold(value, [](T a, T b) { return a + b; });
  }
  // NaN where there is one.
  template <class T>
  __device__ T largest(T value) const {
    return fold(value, [](T a, T b) { return b > a || b != b ? b : a; });
  }
  __device__ bool leads() const { return lane == 0; }
};

struct Line {
  std::int64_t number;  // its place in [outer, inner]
  std::int64_t first;   // place of its first element in [outer, n, inner]
  std::int64_t step;    // from one element to the next
  std::int64_t n;

  __device__ std::int64_t at(std::int64_t j) const { return first + j * step; }
};

__host__ __device__ inline Line line_of(AxisView view, std::int64_t number) {
  return {number, number / view.inner * view.n * view.inner + number % view.inner, view.inner,
          view.n};
}

inline constexpr std::int64_t kShortLine = 8;  // up to here a thread is enough

// f(line, team) for every line.
template <class F>
void each_line(const char* operation, AxisView view, const F& f) {
  const std::int64_t lines = view.outer * view.inner;
  if (view.inner == 1 && view.n > kShortLine) {
    each_warp(operation, lines, [=] __device__(std::int64_t i, unsigned lane) {
      f(line_of(view, i), Team{lane, kWarp});
    });
  } else {
    each(operation, lines, [=] __device__(std::int64_t i) { f(line_of(view, i), Team{0, 1}); });
  }
}

// The sum of term(place) over the elements of a line, in f64.
template <class F>
__device__ double line_sum(const Line& line, const Team& team, const F& term) {
  double sum = 0.0;
  for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
    sum += static_cast<double>(term(line.at(j)));
  }
  return team.sum(sum);
}

// The largest x of a line, NaN where there is one, -infinity of none.
template <class T>
__device__ T line_largest(const T* x, const Line& line, const Team& team) {
  T top = -std::numeric_limits<T>::infinity();
  for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
    const T value = x[line.at(j)];
    if (value > top || value != value) top = value;
  }
  return team.largest(top);
}

// The sum of e^(x - top) over a line.
template <class T>
__device__ T line_exp_sum(const T* x, T top, const Line& line, const Team& team) {
  return static_cast<T>(
      line_sum(line, team, [=](std::int64_t at) { return math::exp(x[at] - top); }));
}

}  // namespace moegrad::cuda
