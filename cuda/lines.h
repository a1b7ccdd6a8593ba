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

// Where lines and elements of [outer, n, inner] are.
class Axis {
 public:
  explicit Axis(AxisView view) : view_(view), n_(view.n), inner_(view.inner) {}
  __device__ Line line(std::int64_t number) const {
    const Quotient at = inner_.of(number);
    return {number, at.times * view_.n * view_.inner + at.rest, view_.inner, view_.n};
  }
  // Of element i: the number of its line, and its place there.
  struct Place {
    std::int64_t line, j;
  };
  __device__ Place place(std::int64_t i) const {
    const Quotient in_row = inner_.of(i);
    const Quotient row = n_.of(in_row.times);
    return {row.times * view_.inner + in_row.rest, row.rest};
  }

 private:
  AxisView view_;
  Divisor n_, inner_;
};

inline constexpr std::int64_t kShortLine = 8;  // up to here a thread is enough

// f(line, team) for every line.
template <class F>
void each_line(const char* operation, AxisView view, const F& f) {
  const std::int64_t lines = view.outer * view.inner;
  if (view.inner == 1 && view.n > kShortLine) {
    each_warp(operation, lines, [=] __device__(std::int64_t i, unsigned lane) {
      f(Line{i, i * view.n, 1, view.n}, Team{lane, kWarp});
    });
  } else {
    const Axis axis(view);
    each(operation, lines, [=] __device__(std::int64_t i) { f(axis.line(i), Team{0, 1}); });
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

// An order of numbers: larger first, NaN before every number, the lower place first among equals.
template <class T>
__device__ bool comes_before(T a, std::int64_t at_a, T b, std::int64_t at_b) {
  if (a > b) return true;
  if (a < b) return false;
  const bool nan_a = a != a;
  const bool nan_b = b != b;
  return nan_a != nan_b ? nan_a : at_a < at_b;
}

// The place in a line of what comes after place `last`, of all for -1; -1 where nothing does.
template <class T>
__device__ std::int64_t next_in_order(const T* x, const Line& line, const Team& team,
                                      std::int64_t last) {
  const auto before = [=](std::int64_t a, std::int64_t b) {
    return comes_before(x[line.at(a)], a, x[line.at(b)], b);
  };
  std::int64_t best = -1;
  for (std::int64_t j = team.lane; j < line.n; j += team.lanes) {
    if (last >= 0 && !before(last, j)) continue;
    if (best < 0 || before(j, best)) best = j;
  }
  return team.fold(best, [=](std::int64_t a, std::int64_t b) {
    if (a < 0 || b < 0) return a < 0 ? b : a;
    return before(a, b) ? a : b;
  });
}

// The sum of e^(x - top) over a line.
template <class T>
__device__ T line_exp_sum(const T* x, T top, const Line& line, const Team& team) {
  return static_cast<T>(
      line_sum(line, team, [=](std::int64_t at) { return math::exp(x[at] - top); }));
}

}  // namespace moegrad::cuda
