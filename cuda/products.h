#pragma once

#include "cuda/product.h"

// The products of the library: what is multiplied, and where the results go. Factors hold elements
// of S, results are of T. How they are computed is told in products.cu.
namespace moegrad::cuda {

// Element (row, col) of matrix `number`.
template <class S>
struct Factor {
  const S* data;
  std::int64_t step, row_step, col_step;  // from one matrix, row, column to the next; 0: shared

  __device__ const S* at(std::int64_t number, std::int64_t row, std::int64_t col) const {
    return data + number * step + row * row_step + col * col_step;
  }
};

// Rows of slots: that of slot s is row s, or where there is an order row order[s] / choices.
template <class S>
struct Rows {
  const S* data;
  std::int64_t count, cols;  // of rows that there are, and their length
  const std::int32_t* order = nullptr;
  std::int32_t choices = 1;

  __device__ const S* at(std::int64_t slot, std::int64_t col) const {
    return data + (order == nullptr ? slot : order[slot] / choices) * cols + col;
  }
};

// to [batch, rows, cols] = left right + beta to; to is not read where beta is 0.
template <class S, class T = S>
struct MatMul {
  using Element = S;
  Factor<S> left, right;
  std::int64_t batch, rows, cols, depth;
  T beta;
  T* to;
  bool a_by_rows, b_by_rows;

  std::int64_t blocks(int side) const {
    return batch * pieces_of(rows, side) * pieces_of(cols, side);
  }
  bool is_empty() const { return batch * rows * cols == 0; }
  bool fits(std::int64_t side) const { return rows > side && cols > side; }

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    take_tile(block, side, rows, cols, tile);
    tile.depth = depth;
    return true;
  }
  __device__ S a(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return *left.at(tile.group, row, k);
  }
  __device__ S b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return *right.at(tile.group, k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    T& y = to[(tile.group * rows + row) * cols + col];
    y = beta == T(0) ? value : value + beta * y;
  }
};

// to [slots, cols] = rows w_e + bias_e, or added to what is there, of the slots of each group e.
// Slots behind the last group are left alone.
template <class S, class T = S>
struct Linear {
  using Element = S;
  Groups groups;
  std::int64_t slots;
  Rows<S> rows;
  Factor<S> w;    // [depth, cols] each
  const T* bias;  // [groups, cols]; null: none
  std::int64_t cols, depth;
  bool adds;
  T* to;
  bool b_by_rows, a_by_rows = true;

  std::int64_t blocks(int side) const {
    return groups.most_tiles(slots, side) * pieces_of(cols, side);
  }
  bool is_empty() const { return slots * cols == 0; }
  bool fits(std::int64_t side) const {
    return cols > side && slots / std::max<std::int64_t>(1, groups.count) > side;
  }

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    const std::int64_t across = (cols + side - 1) / side;
    take_columns(block % across, side, cols, tile);
    tile.depth = depth;
    return groups.find(block / across, side, tile);
  }
  __device__ S a(const Tile&, std::int64_t row, std::int64_t k) const { return *rows.at(row, k); }
  __device__ S b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return *w.at(tile.group, k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    T& y = to[row * cols + col];
    if (bias != nullptr) value += bias[tile.group * cols + col];
    y = adds ? y + value : value;
  }
};

// to [groups, left.cols, right.cols] = the sum over the slots of each group of left^T right, or
// added to what is there; 0 of an empty group.
template <class S, class T = S>
struct Outer {
  using Element = S;
  Groups groups;
  Rows<S> left, right;
  bool adds;
  T* to;
  bool a_by_rows = false, b_by_rows = true;

  std::int64_t blocks(int side) const {
    return groups.count * pieces_of(left.cols, side) * pieces_of(right.cols, side);
  }
  bool is_empty() const { return groups.count * left.cols * right.cols == 0; }
  bool fits(std::int64_t side) const { return left.cols > side && right.cols > side; }

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    take_tile(block, side, left.cols, right.cols, tile);
    tile.first_k = groups.offsets[tile.group];
    tile.depth = groups.offsets[tile.group + 1] - tile.first_k;
    return true;
  }
  __device__ S a(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return *left.at(tile.first_k + k, row);
  }
  __device__ S b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return *right.at(tile.first_k + k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    T& y = to[(tile.group * left.cols + row) * right.cols + col];
    y = adds ? y + value : value;
  }
};

// Of f32 and f64.
template <class T>
void multiply(const char* operation, const MatMul<T>& p);
template <class T>
void multiply(const char* operation, const Linear<T>& p);
template <class T>
void multiply(const char* operation, const Outer<T>& p);

// Zeros in the rows of to [slots, cols] behind the last group.
template <class T>
void clear_rest(const char* operation, const Groups& groups, std::int64_t slots, std::int64_t cols,
                T* to) {
  each(operation, slots * cols, [=] __device__(std::int64_t i) {
    if (i / cols >= groups.offsets[groups.count]) to[i] = T(0);
  });
}

}  // namespace moegrad::cuda
