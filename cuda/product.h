#pragma once

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
//   };
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
      b[k][col] = col < tile.cols ? p.b(tile, first + k, tile.first_col + col) : T(0);
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
  UNROLL
  for (int i = 0; i < kOwn; ++i) {
    const int row = own_row + i * kAcross;
    UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int col = own_col + j * kAcross;
      if (row >= tile.rows || col >= tile.cols) continue;
      p.put(tile, tile.first_row + row, tile.first_col + col,
            tile.depth > kStraight ? total[i][j].total() : sum[i][j]);
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

}  // namespace moegrad::cuda
