// Matrix products, plain and grouped. Every product runs on one thread; threads share out fixed
// tiles of the result.

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/product.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/tiles.h"

namespace moegrad {
namespace {

using cpu::Matrix;

using cpu::GroupTiles;
using cpu::Tile;
using cpu::tiles_of;
// Multiply-adds below which a product is one tile: starting threads would cost more.
constexpr std::int64_t kSerialWork = std::int64_t{1} << 20;
// From so many tiles of full rows on there is no need to cut columns as well.
constexpr std::int64_t kEnoughTiles = 8;
// The sides of a tile. Every tile copies its columns of b, and of a its rows where they lie as
// columns in memory.
constexpr std::int64_t kLongSide = 256;
constexpr std::int64_t kShortSide = 128;

// How a batch of products [m, k] x [k, n] is cut up: a function of the sizes alone.
struct Tiling {
  std::int64_t rows;
  std::int64_t cols;
};

Tiling tiling(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k,
              bool transposed_a) {
  if (batch * m * n * k <= kSerialWork || m * n * k <= kSerialWork / kEnoughTiles) return {m, n};
  if (batch * tiles_of(m, kLongSide) >= kEnoughTiles) return {kLongSide, n};
  if (batch * tiles_of(m, kShortSide) >= kEnoughTiles) return {kShortSide, n};
  Tiling tile = transposed_a ? Tiling{kShortSide, kLongSide} : Tiling{kLongSide, kShortSide};
  if (batch * tiles_of(m, tile.rows) * tiles_of(n, tile.cols) < kEnoughTiles / 2) {
    tile = {tile.rows / 2, tile.cols / 2};
  }
  return tile;
}

template <class T>
const T* part(Matrix<T> x, std::int64_t row, std::int64_t col) {
  return x.transposed ? x.data + col * x.stride + row : x.data + row * x.stride + col;
}

// The tile of op(a) op(b) + beta out that starts at (row, col).
template <class T>
void product_tile(std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols,
                  std::int64_t k, Matrix<T> a, Matrix<T> b, T beta, T* out, std::int64_t stride) {
  cpu::product(rows, cols, k, Matrix<T>{part(a, row, 0), a.stride, a.transposed},
               Matrix<T>{part(b, 0, col), b.stride, b.transposed}, beta, out + row * stride + col,
               stride);
}

}  // namespace

void CpuKernels::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                        double beta, const Tensor& out) {
  const bool batch_a = a.rank() == 3;
  const bool batch_b = b.rank() == 3;
  std::int64_t batch = batch_a ? a.size(0) : batch_b ? b.size(0) : 1;
  std::int64_t m = a.size(transpose_a ? -1 : -2);
  const std::int64_t k = a.size(transpose_a ? -2 : -1);
  const std::int64_t n = b.size(transpose_b ? -2 : -1);
  if (batch_a && !batch_b && !transpose_a) {  // one tall product
    m *= batch;
    batch = 1;
  }
  if (batch * m * n == 0) return;
  with_floating(out.dtype(), "matmul", [&](auto zero) {
    using T = decltype(zero);
    const T* const a_data = a.data<T>();
    const T* const b_data = b.data<T>();
    T* const out_data = out.write<T>();
    const std::int64_t stride_a = transpose_a ? m : k;
    const std::int64_t stride_b = transpose_b ? k : n;
    const Tiling tile = tiling(batch, m, n, k, transpose_a);
    const std::int64_t row_tiles = tiles_of(m, tile.rows);
    const std::int64_t col_tiles = tiles_of(n, tile.cols);
    const auto run = [&](std::int64_t piece, int) {
      const std::int64_t i = piece / (row_tiles * col_tiles);
      const std::int64_t row = piece / col_tiles % row_tiles * tile.rows;
      const std::int64_t col = piece % col_tiles * tile.cols;
      const Matrix<T> left{a_data + (batch_a ? i * m * k : 0), stride_a, transpose_a};
      const Matrix<T> right{b_data + (batch_b ? i * k * n : 0), stride_b, transpose_b};
      product_tile(row, std::min(tile.rows, m - row), col, std::min(tile.cols, n - col), k, left,
                   right, static_cast<T>(beta), out_data + i * m * n, n);
    };
    const std::int64_t pieces = batch * row_tiles * col_tiles;
    if (batch * m * n * k <= kSerialWork) {
      for (std::int64_t piece = 0; piece < pieces; ++piece) run(piece, 0);
    } else {
      cpu::parallel_pieces(pieces, run);
    }
  });
}

void CpuKernels::grouped_matmul(const Tensor& x, const Tensor& w, bool transpose_w,
                                const Tensor& offsets, const Tensor& y) {
  const std::int64_t k = x.size(1);
  const std::int64_t m = y.size(1);
  with_floating(y.dtype(), "grouped_matmul", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const w_data = w.data<T>();
    T* const y_data = y.write<T>();
    cpu::clear_rest<T>(offsets, y);
    GroupTiles(offsets).for_each(k * m / 64, [=](const Tile& t) {
      cpu::product(t.rows(), m, k, Matrix<T>{x_data + t.first * k, k, false},
                   Matrix<T>{w_data + t.group * k * m, transpose_w ? k : m, transpose_w}, T(0),
                   y_data + t.first * m, m);
    });
  });
}

void CpuKernels::grouped_outer(const Tensor& x, const Tensor& dy, const Tensor& offsets,
                               const Tensor& dw) {
  const std::int64_t groups = dw.size(0);
  const std::int64_t k = dw.size(1);
  const std::int64_t m = dw.size(2);
  const std::int32_t* const bounds = offsets.data<std::int32_t>();
  if (dw.numel() == 0) return;
  with_floating(dw.dtype(), "grouped_outer", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dw_data = dw.write<T>();
    const std::int64_t rows = bounds[groups] - bounds[0];
    const Tiling tile = tiling(groups, k, m, rows / groups + 1, true);
    const std::int64_t row_tiles = tiles_of(k, tile.rows);
    const std::int64_t col_tiles = tiles_of(m, tile.cols);
    const auto run = [&](std::int64_t piece, int) {
      const std::int64_t e = piece / (row_tiles * col_tiles);
      const std::int64_t row = piece / col_tiles % row_tiles * tile.rows;
      const std::int64_t col = piece % col_tiles * tile.cols;
      product_tile(row, std::min(tile.rows, k - row), col, std::min(tile.cols, m - col),
                   std::int64_t{bounds[e + 1]} - bounds[e],
                   Matrix<T>{x_data + bounds[e] * k, k, true},
                   Matrix<T>{dy_data + bounds[e] * m, m, false}, T(0), dw_data + e * k * m, m);
    };
    const std::int64_t pieces = groups * row_tiles * col_tiles;
    if (rows * k * m <= kSerialWork) {
      for (std::int64_t piece = 0; piece < pieces; ++piece) run(piece, 0);
    } else {
      cpu::parallel_pieces(pieces, run);
    }
  });
}

void CpuKernels::grouped_bias(const Tensor& x, const Tensor& bias, const Tensor& offsets,
                              const Tensor& y) {
  const std::int64_t m = y.size(1);
  with_floating(y.dtype(), "grouped_bias", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const bias_data = bias.data<T>();
    T* const y_data = y.write<T>();
    const std::int64_t grouped = offsets.data<std::int32_t>()[offsets.numel() - 1];
    std::copy(x_data + grouped * m, x_data + x.numel(), y_data + grouped * m);
    GroupTiles(offsets).for_each(m, [=](const Tile& t) {
      const T* const shift = bias_data + t.group * m;
      for (std::int64_t r = t.first; r < t.last; ++r) {
        for (std::int64_t c = 0; c < m; ++c) y_data[r * m + c] = x_data[r * m + c] + shift[c];
      }
    });
  });
}

void CpuKernels::grouped_sum(const Tensor& x, const Tensor& offsets, const Tensor& out) {
  const std::int64_t m = out.size(1);
  with_floating(out.dtype(), "grouped_sum", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    T* const out_data = out.write<T>();
    const GroupTiles tiles(offsets, cpu::kSumBlock);
    const Tensor workspace = Tensor::empty({tiles.count(), m}, dtype_of<T>, Device::cpu);
    T* const partial = workspace.write<T>();
    tiles.for_each(m, [=](const Tile& t) {
      T* const sums = partial + t.index * m;
      std::fill(sums, sums + m, T(0));
      for (std::int64_t r = t.first; r < t.last; ++r) {
        for (std::int64_t c = 0; c < m; ++c) sums[c] += x_data[r * m + c];
      }
    });
    for (std::int64_t e = 0; e < tiles.groups(); ++e) {
      PoolVector<double> sums(static_cast<std::size_t>(m), 0.0);
      for (std::int64_t tile = tiles.start(e); tile < tiles.start(e + 1); ++tile) {
        for (std::int64_t c = 0; c < m; ++c) {
          sums[static_cast<std::size_t>(c)] += static_cast<double>(partial[tile * m + c]);
        }
      }
      std::transform(sums.begin(), sums.end(), out_data + e * m,
                     [](double sum) { return static_cast<T>(sum); });
    }
  });
}

}  // namespace moegrad
