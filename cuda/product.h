#pragma once

#include "cuda/launch.h"

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
// An element is the sum over k in order, in fused multiply-adds; of a depth beyond kStraight the
// sums of so many are added with what each addition rounds away (Neumaier 1974).
namespace moegrad::cuda {

struct Tile {
  int group = 0;
  int rows = 0, cols = 0;
  std::int64_t first_row = 0, first_col = 0;  // of the problem's
  std::int64_t first_k = 0, depth = 0;  // where the sum begins, for problems that ask; its terms
};

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

// How many blocks of a problem's kernel a multiprocessor has at least, where it says so (kBlocks):
// more of them have fewer registers each. 0: as the compiler finds best.
template <class Problem>
constexpr int blocks_of() {
  if constexpr (requires { Problem::kBlocks; }) {
    return Problem::kBlocks;
  } else {
    return 0;
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

template <int kSide, int kOwn, class Problem>
__global__ void __launch_bounds__((kSide / kOwn) * (kSide / kOwn), blocks_of<Problem>())
    product_kernel(Problem p) {
  using T = typename Problem::Element;
  constexpr int kAcross = kSide / kOwn;
  constexpr int kCount = kAcross * kAcross;  // threads
  Tile tile;
  if (!p.find(blockIdx.x, kSide, tile)) return;
  // One more column: neighbours in a column are in different banks.
  SHARED_ARRAY(T, a, [kDepthStep][kSide + 1]);
  SHARED_ARRAY(T, b, [kDepthStep][kSide + 1]);
  const int t = static_cast<int>(threadIdx.x);
  const int own_row = t / kAcross;
  const int own_col = t % kAcross;
  const bool owns = own_row < tile.rows && own_col < tile.cols;

  T sum[kOwn][kOwn] = {};
  RunningSum<T> total[kOwn][kOwn] = {};
  for (std::int64_t first = 0; first < tile.depth; first += kDepthStep) {
    for (int i = t; i < kDepthStep * kSide; i += kCount) {
      const int k = p.a_by_rows ? i % kDepthStep : i / kSide;
      const int row = p.a_by_rows ? i / kDepthStep : i % kSide;
      if (first + k >= tile.depth) continue;
      a[k][row] = row < tile.rows ? p.a(tile, tile.first_row + row, first + k) : T(0);
    }
    for (int i = t; i < kDepthStep * kSide; i += kCount) {
      const int k = p.b_by_rows ? i / kSide : i % kDepthStep;
      const int col = p.b_by_rows ? i % kSide : i / kDepthStep;
      if (first + k >= tile.depth) continue;
      b[k][col] = col < tile.cols ? right_element(p, tile, first + k, tile.first_col + col) : T(0);
    }
    __syncthreads();
    const std::int64_t left = tile.depth - first;
    const int steps = left < kDepthStep ? static_cast<int>(left) : kDepthStep;
    for (int k = 0; owns && k < steps; ++k) {
      T of_row[kOwn];
      T of_col[kOwn];
      UNROLL
      for (int i = 0; i < kOwn; ++i) of_row[i] = a[k][own_row + i * kAcross];
      UNROLL
      for (int j = 0; j < kOwn; ++j) of_col[j] = b[k][own_col + j * kAcross];
      UNROLL
      for (int i = 0; i < kOwn; ++i) {
        UNROLL
        for (int j = 0; j < kOwn; ++j) sum[i][j] = fma(of_row[i], of_col[j], sum[i][j]);
      }
    }
    __syncthreads();
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
  bool finite = true;
  UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int row = own_row + i * kAcross;
    UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int col = own_col + j * kAcross;
      if (row >= tile.rows || col >= tile.cols) continue;
      const T value = tile.depth > kStraight ? total[i][j].total() : sum[i][j];
      finite = finite && value - value == T(0);
      p.put(tile, tile.first_row + row, tile.first_col + col, value);
    }
  }
  if constexpr (HasGaps<Problem>) {
    if (finite) return;
    // The 0 of a gap may have met what is not finite.
    for (int row = own_row; row < tile.rows; row += kAcross) {
      for (int col = own_col; col < tile.cols; col += kAcross) {
        p.put(tile, tile.first_row + row, tile.first_col + col,
              sum_of_shown(p, tile, tile.first_row + row, tile.first_col + col));
      }
    }
  }
}

// Runs a problem of `blocks(side)` blocks, with small tiles where large ones would be mostly empty.
template <class Problem, class Blocks>
void run_product(const char* operation, const Problem& p, bool small, const Blocks& blocks) {
  if (small) {
    constexpr int kThreadsOf = (kSmallSide / 2) * (kSmallSide / 2);
    run<product_kernel<kSmallSide, 2, Problem>>(operation, blocks(kSmallSide), kThreadsOf, p);
  } else {
    constexpr int kThreadsOf = (kLargeSide / 4) * (kLargeSide / 4);
    run<product_kernel<kLargeSide, 4, Problem>>(operation, blocks(kLargeSide), kThreadsOf, p);
  }
}

__host__ __device__ inline int at_most(int side, std::int64_t left) {
  return left < side ? static_cast<int>(left) : side;
}

// Tiles over the rows of groups that the device alone knows: rows [offsets[e], offsets[e+1]) belong
// to group e. A grid for `most` rows has room for whatever the groups are.
struct Groups {
  const std::int32_t* offsets;
  std::int64_t count;

  std::int64_t most_tiles(std::int64_t most, int side) const { return most / side + count; }
  // The rows of the tile of that number; false: there are fewer.
  __device__ bool find(std::int64_t number, int side, Tile& tile) const {
    for (std::int64_t e = 0; e < count; ++e) {
      const std::int64_t first = offsets[e];
      const std::int64_t rows = offsets[e + 1] - first;
      const std::int64_t tiles = (rows + side - 1) / side;
      if (number < tiles) {
        tile.group = static_cast<int>(e);
        tile.first_row = first + number * side;
        tile.rows = at_most(side, rows - number * side);
        return true;
      }
      number -= tiles;
    }
    return false;
  }
};

// The columns of a tile: number `at` of those across.
__device__ inline void take_columns(std::int64_t at, int side, std::int64_t cols, Tile& tile) {
  tile.first_col = at * side;
  tile.cols = at_most(side, cols - tile.first_col);
}

// The tile of a block, of those over [rows, cols] of each of a batch.
__device__ inline void take_tile(std::int64_t block, int side, std::int64_t rows, std::int64_t cols,
                                 Tile& tile) {
  const std::int64_t across = (cols + side - 1) / side;
  const std::int64_t down = (rows + side - 1) / side;
  tile.group = static_cast<int>(block / across / down);
  tile.first_row = block / across % down * side;
  tile.rows = at_most(side, rows - tile.first_row);
  take_columns(block % across, side, cols, tile);
}

}  // namespace moegrad::cuda
