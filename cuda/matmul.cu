// Products of matrices, of one pair, of batches, and of rows in groups.
#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "cuda/product.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;
using cuda::Tile;

bool is_small(std::int64_t rows, std::int64_t cols) {
  return rows <= 2 * cuda::kSmallSide || cols <= 2 * cuda::kSmallSide;
}

// A factor: element (row, col) of matrix `batch`.
template <class T>
struct Factor {
  const T* data;
  std::int64_t batch_step, row_step, col_step;
  __device__ T at(std::int64_t batch, std::int64_t row, std::int64_t col) const {
    return data[batch * batch_step + row * row_step + col * col_step];
  }
};

template <class T>
struct MatMul {
  using Element = T;
  Factor<T> left, right;
  std::int64_t rows, cols, depth;
  T beta;
  T* to;
  bool a_by_rows, b_by_rows;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, rows, cols, tile);
    tile.depth = depth;
    return true;
  }
  __device__ T a(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return left.at(tile.group, row, k);
  }
  __device__ T b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return right.at(tile.group, k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    T& y = to[(tile.group * rows + row) * cols + col];
    y = beta == T(0) ? value : value + beta * y;
  }
};

// y_e = x_e op(w_e)
template <class T>
struct GroupedMatMul {
  using Element = T;
  cuda::Groups groups;
  const T* x;
  Factor<T> w;
  std::int64_t cols, depth;
  T* y;
  bool a_by_rows, b_by_rows;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    const std::int64_t across = (cols + side - 1) / side;
    cuda::take_columns(block % across, side, cols, tile);
    tile.depth = depth;
    return groups.find(block / across, side, tile);
  }
  __device__ T a(const Tile&, std::int64_t row, std::int64_t k) const { return x[row * depth + k]; }
  __device__ T b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return w.at(tile.group, k, col);
  }
  __device__ void put(const Tile&, std::int64_t row, std::int64_t col, T value) const {
    y[row * cols + col] = value;
  }
};

// dw_e [rows, cols] = x_e^T dy_e
template <class T>
struct GroupedOuter {
  using Element = T;
  cuda::Groups groups;
  const T* x;
  const T* dy;
  std::int64_t rows, cols;
  T* dw;
  bool a_by_rows = false, b_by_rows = true;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, rows, cols, tile);
    tile.first_k = groups.offsets[tile.group];
    tile.depth = groups.offsets[tile.group + 1] - tile.first_k;
    return true;
  }
  __device__ T a(const Tile& tile, std::int64_t row, std::int64_t k) const {
    return x[(tile.first_k + k) * rows + row];
  }
  __device__ T b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return dy[(tile.first_k + k) * cols + col];
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    dw[(tile.group * rows + row) * cols + col] = value;
  }
};

// The group of a row; `count` for none.
__device__ std::int64_t group_of(const std::int32_t* offsets, std::int64_t count,
                                 std::int64_t row) {
  std::int64_t low = 0;
  std::int64_t high = count;  // offsets[low] <= row < offsets[high + 1], if it is of any
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (offsets[middle + 1] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <class T>
void grouped_bias_as(const T* x, const T* bias, const std::int32_t* offsets, std::int64_t groups,
                     std::int64_t cols, std::int64_t numel, T* y) {
  each("grouped_bias", numel, [=] __device__(std::int64_t i) {
    const std::int64_t e = group_of(offsets, groups, i / cols);
    y[i] = e < groups ? x[i] + bias[e * cols + i % cols] : x[i];
  });
}

template <class T>
void clear_rest(const std::int32_t* offsets, std::int64_t groups, std::int64_t cols,
                std::int64_t numel, T* y) {
  each("grouped_matmul", numel, [=] __device__(std::int64_t i) {
    if (i / cols >= offsets[groups]) y[i] = T(0);
  });
}

template <class T>
void grouped_sum_as(const T* x, const std::int32_t* offsets, std::int64_t cols, std::int64_t numel,
                    T* to) {
  each("grouped_sum", numel, [=] __device__(std::int64_t i) {
    const std::int64_t e = i / cols;
    double sum = 0.0;
    for (std::int64_t row = offsets[e]; row < offsets[e + 1]; ++row) {
      sum += static_cast<double>(x[row * cols + i % cols]);
    }
    to[i] = static_cast<T>(sum);
  });
}

// [rows, cols] or [batch, rows, cols]; those of one matrix are shared by the batch.
template <class T>
Factor<T> factor(const Tensor& t, bool transposed) {
  const std::int64_t stored_cols = t.shape().back();
  const std::int64_t step = t.rank() == 3 ? t.size(1) * t.size(2) : 0;
  return transposed ? Factor<T>{in<T>(t), step, 1, stored_cols}
                    : Factor<T>{in<T>(t), step, stored_cols, 1};
}

}  // namespace

void CudaKernels::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                         double beta, const Tensor& t) {
  if (t.numel() == 0) return;
  const std::int64_t rows = t.size(-2);
  const std::int64_t cols = t.size(-1);
  const std::int64_t batch = t.rank() == 3 ? t.size(0) : 1;
  with_floating(t.dtype(), "matmul", [&](auto zero) {
    using T = decltype(zero);
    const MatMul<T> problem = {factor<T>(a, transpose_a),
                               factor<T>(b, transpose_b),
                               rows,
                               cols,
                               a.size(transpose_a ? -2 : -1),
                               static_cast<T>(beta),
                               out<T>(t),
                               !transpose_a,
                               !transpose_b};
    cuda::run_product("matmul", problem, is_small(rows, cols), [=](int side) {
      return batch * cuda::pieces_of(rows, side) * cuda::pieces_of(cols, side);
    });
  });
}

void CudaKernels::grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w,
                                 const Tensor& offsets, const Tensor& y) {
  if (y.numel() == 0) return;
  const std::int64_t rows = y.size(0);
  const std::int64_t cols = y.size(1);
  const cuda::Groups groups = {in<std::int32_t>(offsets), offsets.numel() - 1};
  with_floating(y.dtype(), "grouped_matmul", [&](auto zero) {
    using T = decltype(zero);
    const GroupedMatMul<T> problem = {groups, in<T>(x),    factor<T>(w, transpose_w),
                                      cols,   x.size(1),   out<T>(y),
                                      true,   !transpose_w};
    cuda::run_product(
        "grouped_matmul", problem, is_small(rows / std::max<std::int64_t>(1, groups.count), cols),
        [=](int side) { return groups.most_tiles(rows, side) * cuda::pieces_of(cols, side); });
    clear_rest(groups.offsets, groups.count, cols, y.numel(), out<T>(y));
  });
}

void CudaKernels::grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                                const Tensor& dw) {
  if (dw.numel() == 0) return;
  const cuda::Groups groups = {in<std::int32_t>(offsets), offsets.numel() - 1};
  with_floating(dw.dtype(), "grouped_outer", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t rows = dw.size(1);
    const std::int64_t cols = dw.size(2);
    const GroupedOuter<T> problem = {groups, in<T>(x), in<T>(dy), rows, cols, out<T>(dw)};
    cuda::run_product("grouped_outer", problem, is_small(rows, cols), [=](int side) {
      return groups.count * cuda::pieces_of(rows, side) * cuda::pieces_of(cols, side);
    });
  });
}

void CudaKernels::grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                               const Tensor& y) {
  with_floating(y.dtype(), "grouped_bias", [&](auto zero) {
    using T = decltype(zero);
    grouped_bias_as(in<T>(x), in<T>(bias), in<std::int32_t>(offsets), offsets.numel() - 1,
                    y.size(1), y.numel(), out<T>(y));
  });
}

void CudaKernels::grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& t) {
  with_floating(t.dtype(), "grouped_sum", [&](auto zero) {
    using T = decltype(zero);
    grouped_sum_as(in<T>(x), in<std::int32_t>(offsets), t.size(1), t.numel(), out<T>(t));
  });
}

}  // namespace moegrad
