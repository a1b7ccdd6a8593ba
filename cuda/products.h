#pragma once

#include "cuda/divisor.h"
#include "cuda/mma_product.h"
#include "cuda/product.h"

// The products of the library: what is multiplied, and where the results go; problems of product.h
// and of mma_product.h. Factors hold elements of S, results are of T. How they are computed is told
// in products.cu.
namespace moegrad::cuda {

template <class S>
inline constexpr bool kInPairs = std::is_same_v<S, Pair>;

// Whether lines of `step` elements, the first at `data`, begin at multiples of 16 bytes.
template <class S>
bool are_aligned(const S* data, std::int64_t step) {
  return (reinterpret_cast<std::uintptr_t>(data) | static_cast<std::uintptr_t>(step) * sizeof(S)) %
             16 ==
         0;
}

// Element (row, col) of matrix `number`.
template <class S>
struct Factor {
  const S* data;
  std::int64_t step, row_step, col_step;  // from one matrix, row, column to the next; 0: shared

  __device__ const S* at(std::int64_t number, std::int64_t row, std::int64_t col) const {
    return data + number * step + row * row_step + col * col_step;
  }
  bool aligned() const {
    return are_aligned(data, step) && are_aligned(data, row_step == 1 ? col_step : row_step);
  }
};

// Rows of slots: that of slot s is row s, or where there is an order row order[s] / choices.
template <class S>
struct Rows {
  const S* data;
  std::int64_t count, step;  // rows that there are, elements from one to the next
  const std::int32_t* order = nullptr;
  Divisor choices = Divisor(1);

  __device__ const S* at(std::int64_t slot, std::int64_t col) const {
    return data + (order == nullptr ? slot : choices.times(order[slot])) * step + col;
  }
  bool aligned() const { return are_aligned(data, step); }
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
  __device__ const S* a_at(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return left.at(tile.group, row, k);
  }
  __device__ const S* b_at(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return right.at(tile.group, k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value,
                      bool more) const {
    T& y = to[(tile.group * rows + row) * cols + col];
    const T factor = more ? T(1) : beta;
    y = factor == T(0) ? value : value + factor * y;
  }
  bool a_aligned() const { return left.aligned(); }
  bool b_aligned() const { return right.aligned(); }
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
  bool b_by_rows;
  static constexpr bool a_by_rows = true;

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
  __device__ const S* a_at(const Tile&, std::int64_t row, std::int64_t k) const {
    return rows.at(row, k);
  }
  __device__ const S* b_at(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return w.at(tile.group, k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value,
                      bool more) const {
    T& y = to[row * cols + col];
    if (bias != nullptr && !more) value += bias[tile.group * cols + col];
    y = adds || more ? y + value : value;
  }
  bool a_aligned() const { return rows.aligned(); }
  bool b_aligned() const { return w.aligned(); }
};

// Where the pairs of a group begin, whose first slot is `first`: each has room for one that is half
// empty.
__host__ __device__ inline std::int64_t first_pair(std::int64_t first, std::int64_t group) {
  return first / 2 + group;
}

// to [groups, rows, cols] = the sum over the slots of each group of left^T right, or added to what is
// there; 0 of an empty group. Rows of pairs hold two slots of a group each: its first is row
// first_pair().
template <class S, class T = S>
struct Outer {
  using Element = S;
  Groups groups;
  std::int64_t slots;
  Rows<S> left, right;
  std::int64_t rows, cols;
  bool adds;
  T* to;
  static constexpr bool a_by_rows = false, b_by_rows = true;

  std::int64_t blocks(int side) const {
    return groups.count * pieces_of(rows, side) * pieces_of(cols, side);
  }
  bool is_empty() const { return groups.count * rows * cols == 0; }
  bool fits(std::int64_t side) const { return rows > side && cols > side; }

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    take_tile(block, side, rows, cols, tile);
    tile.first_k = groups.offsets[tile.group];
    tile.depth = groups.offsets[tile.group + 1] - tile.first_k;
    if constexpr (kInPairs<S>) {
      tile.first_k = first_pair(tile.first_k, tile.group);
      tile.depth = (tile.depth + 1) / 2;
    }
    return true;
  }
  __device__ const S* a_at(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return left.at(tile.first_k + k, row);
  }
  __device__ const S* b_at(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return right.at(tile.first_k + k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value,
                      bool more) const {
    T& y = to[(tile.group * rows + row) * cols + col];
    y = adds || more ? y + value : value;
  }
  bool a_aligned() const { return left.aligned(); }
  bool b_aligned() const { return right.aligned(); }
};

// With TF32 or bf16, as maths() says; an Error where the device has none.
void multiply_on_tensor_cores(const char* operation, const MatMul<float>& p);
void multiply_on_tensor_cores(const char* operation, const Linear<float>& p);
void multiply_on_tensor_cores(const char* operation, const Outer<float>& p);

// By cuBLAS where products() asks for it and it can; false: nothing has been done.
template <class T>
bool multiply_by_library(const char* operation, const MatMul<T>& p);
template <class T>
bool multiply_by_library(const char* operation, const Linear<T>& p);
template <class T>
bool multiply_by_library(const char* operation, const Outer<T>& p);

// The same of groups by cuBLASLt, in bf16.
bool multiply_grouped(const char* operation, const Linear<float>& p);
bool multiply_grouped(const char* operation, const Outer<float>& p);

// As maths() says, of f32; of f64 an Error unless it is exact.
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
    if (i >= groups.offsets[groups.count] * cols) to[i] = T(0);
  });
}

}  // namespace moegrad::cuda
