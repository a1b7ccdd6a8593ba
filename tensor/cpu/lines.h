#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/vector.h"
#include "tensor/kernels.h"
#include "tensor/math.h"

// Lines along the middle axis of [outer, n, inner], gone through sixteen numbers at a time: sixteen
// elements of one long row (Along), or one element each of sixteen lines (Across), which are short
// or lie side by side. A kernel is written once, over either.

namespace moegrad::cpu {

// For what is called at two places and must be part of both loops.
#define MOEGRAD_INLINED __attribute__((always_inline))

inline constexpr std::int64_t kPack = 16;
inline constexpr std::int64_t kShortRow = 32;  // up to here rows are gone through side by side

template <class T>
struct Pack {
  T lane[kPack];
};

template <class T>
Pack<T> filled(T value) {
  Pack<T> pack;
  for (T& lane : pack.lane) lane = value;
  return pack;
}

// f(a, b, ...) lane by lane
template <class T, class F, class... Packs>
[[gnu::always_inline]] inline Pack<T> map(F f, const Pack<T>& first, const Packs&... rest) {
  Pack<T> result;
  for (std::int64_t l = 0; l < kPack; ++l) result.lane[l] = f(first.lane[l], rest.lane[l]...);
  return result;
}

template <class T>
Pack<T> added(const Pack<T>& a, const Pack<T>& b) {
  return map([](T x, T y) { return x + y; }, a, b);
}
// The larger of each lane, NaN where there is one.
template <class T>
Pack<T> larger(const Pack<T>& a, const Pack<T>& b) {
  Pack<T> result;
  for (std::int64_t l = 0; l < kPack; l += kVectorLanes<T>) {
    const Vector<T> x = cpu::load(a.lane + l);
    const Vector<T> y = cpu::load(b.lane + l);
    cpu::store(result.lane + l, ((y > x) | (y != y)) ? y : x);
  }
  return result;
}

// One contiguous row.
template <class T>
class Along {
 public:
  Along(std::int64_t line, std::int64_t n) : line_(line), n_(n) {}

  std::int64_t packs() const { return (n_ + kPack - 1) / kPack; }
  std::int64_t size() const { return n_; }
  template <class P>
  P* row(P* x) const {
    return x + line_ * n_;
  }
  // Pack p of x; `pad` where the line has ended.
  Pack<T> load(const T* x, std::int64_t p, T pad) const {
    const T* const from = x + line_ * n_ + p * kPack;
    const std::int64_t left = n_ - p * kPack;
    if (left >= kPack) {
      Pack<T> pack;
      for (std::int64_t l = 0; l < kPack; ++l) pack.lane[l] = from[l];
      return pack;
    }
    Pack<T> pack = filled(pad);
    for (std::int64_t l = 0; l < left; ++l) pack.lane[l] = from[l];
    return pack;
  }
  void store(T* x, std::int64_t p, const Pack<T>& pack) const {
    T* const to = x + line_ * n_ + p * kPack;
    const std::int64_t left = n_ - p * kPack;
    if (left >= kPack) {
      for (std::int64_t l = 0; l < kPack; ++l) to[l] = pack.lane[l];
    } else {
      for (std::int64_t l = 0; l < left; ++l) to[l] = pack.lane[l];
    }
  }
  // All lanes as one: of the line.
  Pack<T> sum(const Pack<T>& pack) const {
    return folded(pack, [](T a, T b) { return a + b; });
  }
  Pack<T> largest(const Pack<T>& pack) const {
    return folded(pack, [](T a, T b) { return math::select((b > a) | (b != b), b, a); });
  }
  // A number of each line.
  Pack<T> of_lines(const T* x) const { return filled(x[line_]); }
  void store_lines(T* x, const Pack<T>& pack) const { x[line_] = pack.lane[0]; }
  // One element of each line.
  Pack<T> at(const T* x, const std::int32_t* place) const {
    return filled(x[line_ * n_ + place[line_]]);
  }
  void store_at(T* x, const std::int32_t* place, const Pack<T>& pack) const {
    x[line_ * n_ + place[line_]] = pack.lane[0];
  }

 private:
  template <class F>
  static Pack<T> folded(Pack<T> pack, F f) {
    for (std::int64_t half = kPack / 2; half > 0; half /= 2) {
      for (std::int64_t l = 0; l < half; ++l) pack.lane[l] = f(pack.lane[l], pack.lane[l + half]);
    }
    return filled(pack.lane[0]);
  }

  std::int64_t line_, n_;
};

// Lines [first, first + 16), or as many as there are.
template <class T>
class Across {
 public:
  Across(AxisView view, std::int64_t first)
      : n_(view.n),
        step_(view.inner),
        first_(first),
        count_(std::min(kPack, view.outer * view.inner - first)) {
    std::int64_t outer = first / step_;
    std::int64_t inner = first % step_;
    for (std::int64_t l = 0; l < kPack; ++l) {
      start_[l] = outer * n_ * step_ + inner;
      if (l + 1 >= count_) continue;  // lanes too many repeat the last line
      if (++inner == step_) {
        inner = 0;
        ++outer;
      }
    }
  }

  std::int64_t packs() const { return n_; }
  Pack<T> load(const T* x, std::int64_t p, T) const {
    Pack<T> pack;
    for (std::int64_t l = 0; l < kPack; ++l) pack.lane[l] = x[start_[l] + p * step_];
    return pack;
  }
  void store(T* x, std::int64_t p, const Pack<T>& pack) const {
    for (std::int64_t l = 0; l < count_; ++l) x[start_[l] + p * step_] = pack.lane[l];
  }
  Pack<T> sum(const Pack<T>& pack) const { return pack; }
  Pack<T> largest(const Pack<T>& pack) const { return pack; }
  Pack<T> of_lines(const T* x) const {
    Pack<T> pack;
    for (std::int64_t l = 0; l < kPack; ++l) pack.lane[l] = x[first_ + std::min(l, count_ - 1)];
    return pack;
  }
  void store_lines(T* x, const Pack<T>& pack) const {
    for (std::int64_t l = 0; l < count_; ++l) x[first_ + l] = pack.lane[l];
  }
  Pack<T> at(const T* x, const std::int32_t* place) const {
    Pack<T> pack;
    for (std::int64_t l = 0; l < kPack; ++l) {
      pack.lane[l] = x[start_[l] + place[first_ + std::min(l, count_ - 1)] * step_];
    }
    return pack;
  }
  void store_at(T* x, const std::int32_t* place, const Pack<T>& pack) const {
    for (std::int64_t l = 0; l < count_; ++l) {
      x[start_[l] + place[first_ + l] * step_] = pack.lane[l];
    }
  }

 private:
  std::int64_t n_, step_, first_, count_;
  std::int64_t start_[kPack];
};

// Calls f(lines) until it has seen every line of the view; an element costs `cost` plain ones.
template <class T, class F>
void for_lines(AxisView view, std::int64_t cost, F&& f) {
  if (view.inner == 1 && view.n > kShortRow) {
    parallel_for(view.outer, items_per_grain(cost * view.n),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t line = begin; line < end; ++line) f(Along<T>(line, view.n));
                 });
    return;
  }
  const std::int64_t blocks = (view.outer * view.inner + kPack - 1) / kPack;
  parallel_for(blocks, items_per_grain(cost * kPack * view.n),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) f(Across<T>(view, b * kPack));
               });
}

// The largest element of each line, NaN where there is one, -infinity where n is 0.
template <class T, class Lines>
Pack<T> largest_of(const Lines& lines, const T* x) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  Pack<T> top = filled(kLowest);
  for (std::int64_t p = 0; p < lines.packs(); ++p) top = larger(top, lines.load(x, p, kLowest));
  return lines.largest(top);
}

// The sum of term(p) over the packs [first, last) of each line, lane by lane.
template <class T, class F>
[[gnu::always_inline]] inline Pack<T> block_sum(std::int64_t first, std::int64_t last, F& term) {
  Pack<T> sum = filled(T(0));
  for (std::int64_t p = first; p < last; ++p) sum = added(sum, term(p));
  return sum;
}

// Of many packs; apart, as long_lane_blocks is.
template <class T, class F>
[[gnu::noinline]] Pack<T> long_sum(std::int64_t packs, F& term) {
  Pack<double> total = filled(0.0);
  for (std::int64_t p = 0; p < packs; p += kSumBlock) {
    const Pack<T> sum = block_sum<T>(p, std::min(packs, p + kSumBlock), term);
    for (std::int64_t l = 0; l < kPack; ++l) total.lane[l] += static_cast<double>(sum.lane[l]);
  }
  Pack<T> sum;
  for (std::int64_t l = 0; l < kPack; ++l) sum.lane[l] = static_cast<T>(total.lane[l]);
  return sum;
}

// The sum of term(p) over the packs p of each line; of long lines the sums of blocks are added in
// f64.
template <class T, class Lines, class F>
[[gnu::always_inline]] inline Pack<T> sum_of(const Lines& lines, F&& term) {
  const std::int64_t packs = lines.packs();
  return lines.sum(packs <= kSumBlock ? block_sum<T>(0, packs, term) : long_sum<T>(packs, term));
}

// The sum of e^(x - top) of each line.
template <class T, class Lines>
Pack<T> exp_sum_of(const Lines& lines, const T* x, const Pack<T>& top) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();  // e^-infinity adds nothing
  return sum_of<T>(lines, [&](std::int64_t p) MOEGRAD_INLINED {
    return map([](T v, T t) { return math::exp(v - t); }, lines.load(x, p, kLowest), top);
  });
}

}  // namespace moegrad::cpu
