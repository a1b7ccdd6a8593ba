#pragma once

#include <type_traits>

#include "cuda/launch.h"
#include "cuda/tiles.h"

// Products of matrices by tiles: a block owns a tile of the result and goes through the depth in
// steps, whose parts of both factors it keeps in shared memory. What is multiplied, and where the
// result goes, is told by a problem:
//
//   struct Problem {
//     using Element = T;
//     // The tile of this block, at most `side` rows and columns; false: there is none.
//     __device__ bool find(std::int64_t block, int side, Tile& tile) const;
//     __device__ T a(const Tile&, std::int64_t row, std::int64_t k) const;
//     __device__ T b(const Tile&, std::int64_t k, std::int64_t col) const;
//     __device__ void put(const Tile&, std::int64_t row, std::int64_t col, T value) const;
//     bool a_by_rows, b_by_rows;  // which neighbours lie side by side, those of a row or a column
//     // In the place of b(), where some terms are none: where their b would be; null, and the term
//     // does not count, even where a is not finite.
//     __device__ const T* shown(const Tile&, std::int64_t k, std::int64_t col) const;
//   };
//
// One whose elements are in memory as they are multiplied tells where, in place of a() and b(), and
// whether rows, or columns, begin at multiples of 16 bytes:
//
//     __device__ const T* a_at(const Tile&, std::int64_t row, std::int64_t k) const;
//     __device__ const T* b_at(const Tile&, std::int64_t k, std::int64_t col) const;
//     bool a_whole, b_whole;
//
// While a step is multiplied, the next is on its way to registers, then to the other half of shared
// memory.
//
// An element is the sum over k in order, in fused multiply-adds; of a depth beyond kStraight the
// sums of so many are added with what each addition rounds away (Neumaier 1974).
namespace moegrad::cuda {

inline constexpr int kDepthStep = 16;
inline constexpr std::int64_t kStraight = 64;
inline constexpr int kLargeSide = 64;  // with 4 x 4 elements a thread
inline constexpr int kSmallSide = 16;  // with 2 x 2

// Of f32: what is lost is kept. Of f64 the sums of pieces are exact enough.
template <class T>
struct RunningSum {
  T sum = T(0);
  T lost = T(0);

  __device__ void add(T value) {
    const T next = sum + value;
    const T larger = fabs(sum) >= fabs(value) ? sum : value;
    const T smaller = fabs(sum) >= fabs(value) ? value : sum;
    const T rest = (larger - next) + smaller;
    if (rest - rest == T(0)) lost += rest;  // not of infinities
    sum = next;
  }
  __device__ T total() const { return sum + lost; }
};
template <>
struct RunningSum<double> {
  double sum = 0.0;
  __device__ void add(double value) { sum += value; }
  __device__ double total() const { return sum; }
};

template <class Problem>
inline constexpr bool kInWords = requires(const Problem p) {
  p.a_whole;
};

// 16 bytes of elements, which are moved at once.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T x[kSize];
};

// A step of a factor in shared memory: element (line, k) of a row of a, a column of b. One vector
// more, so that what is stored along k is in more banks.
template <class T, int kSide>
struct Step {
  static constexpr int kSize = Vector<T>::kSize;
  Vector<T> of_k[kDepthStep][kSide / kSize + 1];

  __device__ T& at(int line, int k) { return of_k[k][line / kSize].x[line % kSize]; }
  __device__ T at(int line, int k) const { return of_k[k][line / kSize].x[line % kSize]; }
};

// The lines of a thread in a tile: runs of neighbours, that are read at once.
template <class T, int kSide, int kOwn>
struct Own {
  static constexpr int kRun = kOwn < Vector<T>::kSize ? kOwn : Vector<T>::kSize;
  static constexpr int kAcross = kSide / kOwn;
  int first;

  __device__ explicit Own(int number) : first(number * kRun) {}
  __device__ int line(int i) const { return first + i / kRun * kRun * kAcross + i % kRun; }
  __device__ void read(const Step<T, kSide>& step, int k, T (&x)[kOwn]) const {
    constexpr int kSize = Vector<T>::kSize;
    UNROLL
    for (int i = 0; i < kOwn; i += kRun) {
      if constexpr (kRun == kSize) {
        const Vector<T> some = step.of_k[k][line(i) / kSize];
        UNROLL
        for (int r = 0; r < kRun; ++r) x[i + r] = some.x[r];
      } else {
        UNROLL
        for (int r = 0; r < kRun; ++r) x[i + r] = step.at(line(i) + r, k);
      }
    }
  }
};

// What a thread brings of each step of a factor in memory: elements side by side, along k or of
// neighbouring lines, on their way through registers.
template <class T, int kSide, int kCount, bool kAlong>
struct Carried {
  T x[kCount];

  __device__ static int number() { return static_cast<int>(threadIdx.x) * kCount; }
  __device__ static int line() { return kAlong ? number() / kDepthStep : number() % kSide; }
  __device__ static int k() { return kAlong ? number() % kDepthStep : number() / kSide; }

  // Those of the first `lines` lines and `left` of the depth, from at(line, k) on; 0 else. `whole`: that
  // is a multiple of 16 bytes.
  template <class At>
  __device__ void fetch(int lines, std::int64_t left, bool whole, const At& at) {
    constexpr int kSize = Vector<T>::kSize;
    const std::int64_t inside = line() >= lines || k() >= left ? 0
                                : kAlong                       ? left - k()
                                                               : lines - line();
    const T* const from = inside > 0 ? at(line(), k()) : nullptr;
    UNROLL
    for (int i = 0; i < kCount; i += kSize) {
      if (whole && inside >= i + kSize) {
        const Vector<T> some = *reinterpret_cast<const Vector<T>*>(from + i);
        UNROLL
        for (int r = 0; r < kSize; ++r) x[i + r] = some.x[r];
      } else {
        UNROLL
        for (int r = 0; r < kSize; ++r) x[i + r] = i + r < inside ? from[i + r] : T(0);
      }
    }
  }
  __device__ void store(Step<T, kSide>& to) const {
    constexpr int kSize = Vector<T>::kSize;
    UNROLL
    for (int i = 0; i < kCount; i += kSize) {
      Vector<T> some;
      UNROLL
      for (int r = 0; r < kSize; ++r) {
        some.x[r] = x[i + r];
        if (kAlong) to.at(line(), k() + i + r) = x[i + r];
      }
      if (!kAlong) to.of_k[k()][(line() + i) / kSize] = some;
    }
  }
};

// A step of a factor whose elements are worked out, as one(line, k) tells; 0 outside.
template <bool kAlong, int kThreads, class T, int kSide, class One>
__device__ void work_out(Step<T, kSide>& to, int lines, std::int64_t left, const One& one) {
  ROLLED
  for (int i = static_cast<int>(threadIdx.x); i < kDepthStep * kSide; i += kThreads) {
    const int line = kAlong ? i / kDepthStep : i % kSide;
    const int k = kAlong ? i % kDepthStep : i / kSide;
    if (k < left) to.at(line, k) = line < lines ? one(line, k) : T(0);
  }
}

// Whether some terms of a problem are none.
template <class Problem>
concept HasGaps = requires(const Problem& p, const Tile& tile) {
  p.shown(tile, 0, 0);
};

template <class Problem>
__device__ typename Problem::Element right_element(const Problem& p, const Tile& tile,
                                                   std::int64_t k, std::int64_t col) {
  if constexpr (HasGaps<Problem>) {
    const auto* const place = p.shown(tile, k, col);
    return place == nullptr ? typename Problem::Element(0) : *place;
  } else {
    return p.b(tile, k, col);
  }
}

// The same sum as product_kernel's, of the terms that there are.
template <HasGaps Problem>
__device__ typename Problem::Element sum_of_shown(const Problem& p, const Tile& tile,
                                                  std::int64_t row, std::int64_t col) {
  using T = typename Problem::Element;
  T sum(0);
  RunningSum<T> total;
  for (std::int64_t k = 0; k < tile.depth; ++k) {
    const T* const b = p.shown(tile, k, col);
    if (b != nullptr) sum = fma(p.a(tile, row, k), *b, sum);
    if ((k + 1) % kStraight != 0 && k + 1 < tile.depth) continue;
    total.add(sum);
    sum = T(0);
  }
  return total.total();
}

template <int kSide, int kOwn, bool kAlongA, bool kAlongB, class Problem>
__global__ void __launch_bounds__((kSide / kOwn) * (kSide / kOwn), kSide == kLargeSide ? 2 : 12)
    product_kernel(Problem p) {
  using T = typename Problem::Element;
  constexpr int kAcross = kSide / kOwn;
  constexpr int kThreadsOf = kAcross * kAcross;
  constexpr int kCount = kDepthStep * kSide / kThreadsOf;
  constexpr int kAtOnce = sizeof(T) == 4 ? kOwn : 1;  // steps of k unrolled; more would spill
  Tile tile;
  if (!p.find(blockIdx.x, kSide, tile)) return;
  using OneStep = Step<T, kSide>;
  SHARED_ARRAY(OneStep, a, [2]);
  SHARED_ARRAY(OneStep, b, [2]);
  Own<T, kSide, kOwn> rows(static_cast<int>(threadIdx.x) / kAcross);
  Own<T, kSide, kOwn> cols(static_cast<int>(threadIdx.x) % kAcross);
  const bool owns = rows.first < tile.rows && cols.first < tile.cols;

  Carried<T, kSide, kCount, kAlongA> of_a;
  Carried<T, kSide, kCount, kAlongB> of_b;
  const auto fetch = [&](std::int64_t first) {
    if constexpr (kInWords<Problem>) {
      of_a.fetch(tile.rows, tile.depth - first, p.a_whole,
                 [&](int row, int k) { return p.a_at(tile, tile.first_row + row, first + k); });
      of_b.fetch(tile.cols, tile.depth - first, p.b_whole,
                 [&](int col, int k) { return p.b_at(tile, first + k, tile.first_col + col); });
    }
  };
  const auto store = [&](std::int64_t first, OneStep& to_a, OneStep& to_b) {
    if constexpr (kInWords<Problem>) {
      of_a.store(to_a);
      of_b.store(to_b);
    } else {
      work_out<kAlongA, kThreadsOf>(to_a, tile.rows, tile.depth - first, [&](int row, int k) {
        return p.a(tile, tile.first_row + row, first + k);
      });
      work_out<kAlongB, kThreadsOf>(to_b, tile.cols, tile.depth - first, [&](int col, int k) {
        return right_element(p, tile, first + k, tile.first_col + col);
      });
    }
  };

  T sum[kOwn][kOwn] = {};
  RunningSum<T> total[kOwn][kOwn] = {};
  int half = 0;
  fetch(0);
  for (std::int64_t first = 0; first < tile.depth; first += kDepthStep) {
    store(first, a[half], b[half]);
    __syncthreads();  // the other half may still be read
    const std::int64_t left = tile.depth - first;
    if (left > kDepthStep) fetch(first + kDepthStep);
    const auto multiply = [&](int k) {
      T of_row[kOwn];
      T of_col[kOwn];
      rows.read(a[half], k, of_row);
      cols.read(b[half], k, of_col);
      UNROLL
      for (int i = 0; i < kOwn; ++i) {
        UNROLL
        for (int j = 0; j < kOwn; ++j) sum[i][j] = fma(of_row[i], of_col[j], sum[i][j]);
      }
    };
    const int steps = !owns ? 0 : at_most(kDepthStep, left);
    int k = 0;
    ROLLED
    for (; k + kAtOnce <= steps; k += kAtOnce) {
      UNROLL
      for (int i = 0; i < kAtOnce; ++i) multiply(k + i);
    }
    ROLLED
    for (; k < steps; ++k) multiply(k);
    half = 1 - half;
    if (tile.depth > kStraight && ((first + kDepthStep) % kStraight == 0 || left <= kDepthStep)) {
      UNROLL
      for (int i = 0; i < kOwn; ++i) {
        UNROLL
        for (int j = 0; j < kOwn; ++j) {
          total[i][j].add(sum[i][j]);
          sum[i][j] = T(0);
        }
      }
    }
  }
  // The compiler must not work out places before the loop, to keep them throughout.
  asm volatile("" : "+r"(rows.first), "+r"(cols.first));
  bool finite = true;
  UNROLL
  for (int i = 0; i < kOwn; ++i) {
    UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int row = rows.line(i);
      const int col = cols.line(j);
      if (row >= tile.rows || col >= tile.cols) continue;
      const T value = tile.depth > kStraight ? total[i][j].total() : sum[i][j];
      finite = finite && value - value == T(0);
      p.put(tile, tile.first_row + row, tile.first_col + col, value);
    }
  }
  if constexpr (HasGaps<Problem>) {
    if (finite) return;
    // The 0 of a gap may have met what is not finite.
    for (int i = 0; i < kOwn * kOwn; ++i) {
      const int row = rows.line(i / kOwn);
      const int col = cols.line(i % kOwn);
      if (row >= tile.rows || col >= tile.cols) continue;
      p.put(tile, tile.first_row + row, tile.first_col + col,
            sum_of_shown(p, tile, tile.first_row + row, tile.first_col + col));
    }
  }
}

// Calls f with the flag as a std::bool_constant.
template <class F>
void with_flag(bool flag, const F& f) {
  flag ? f(std::true_type{}) : f(std::false_type{});
}

// Runs a problem of `blocks(side)` blocks, with small tiles where large ones would be mostly empty.
template <class Problem, class Blocks>
void run_product(const char* operation, const Problem& p, bool small, const Blocks& blocks) {
  const auto run_side = [&]<int kSide, int kOwn>(auto along_a, auto along_b) {
    constexpr int kThreadsOf = (kSide / kOwn) * (kSide / kOwn);
    run<product_kernel<kSide, kOwn, along_a(), along_b(), Problem>>(operation, blocks(kSide),
                                                                    kThreadsOf, p);
  };
  const auto run_along = [&](auto along_a, auto along_b) {
    if (small) {
      run_side.template operator()<kSmallSide, 2>(along_a, along_b);
    } else {
      run_side.template operator()<kLargeSide, 4>(along_a, along_b);
    }
  };
  if constexpr (requires { typename std::bool_constant<Problem::a_by_rows>; }) {
    constexpr std::bool_constant<Problem::a_by_rows> kAlongA;
    if constexpr (requires { typename std::bool_constant<Problem::b_by_rows>; }) {
      run_along(kAlongA, std::bool_constant<!Problem::b_by_rows>{});
    } else {
      with_flag(!p.b_by_rows, [&](auto along_b) { run_along(kAlongA, along_b); });
    }
  } else {
    with_flag(p.a_by_rows, [&](auto along_a) {
      with_flag(!p.b_by_rows, [&](auto along_b) { run_along(along_a, along_b); });
    });
  }
}

}  // namespace moegrad::cuda
