// Kernels of the device in forms that can be proved: what decides where they go comes from their
// parameters, not from the device's memory.
#include "cuda/mma_product.h"
#include "cuda/product.h"
#include "cuda/scan.h"

using moegrad::cuda::Tile;

// y [rows, cols] = x w, of x [rows, depth] and w [depth, cols].
struct Product {
  using Element = float;
  const float* x;
  const float* w;
  float* y;
  std::int64_t rows, cols, depth;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    moegrad::cuda::take_tile(block, side, rows, cols, tile);
    tile.depth = depth;
    return true;
  }
  __device__ float a(const Tile&, std::int64_t row, std::int64_t k) const {
    return x[row * depth + k];
  }
  __device__ float b(const Tile&, std::int64_t k, std::int64_t col) const {
    return w[k * cols + col];
  }
  __device__ void put(const Tile&, std::int64_t row, std::int64_t col, float value) const {
    y[row * cols + col] = value;
  }
};

// The same with a matrix w for each of four groups of rows, as experts have them.
struct Offsets {
  std::int32_t at[5];
  __device__ std::int32_t operator[](std::int64_t e) const {
    return e < 2 ? (e < 1 ? at[0] : at[1]) : e < 3 ? at[2] : e < 4 ? at[3] : at[4];
  }
};
struct GroupedProduct : Product {
  Offsets offsets;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    const std::int64_t across = (cols + side - 1) / side;
    moegrad::cuda::take_columns(block % across, side, cols, tile);
    tile.depth = depth;
    return moegrad::cuda::GroupsBy<Offsets>{offsets, 4}.find(block / across, side, tile);
  }
  __device__ float b(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return w[(tile.group * depth + k) * cols + col];
  }
};

template __global__ void moegrad::cuda::product_kernel<64, 4, true, false, Product>(Product);
template __global__ void moegrad::cuda::product_kernel<16, 2, true, false, Product>(Product);
template __global__ void moegrad::cuda::product_kernel<64, 4, true, false, GroupedProduct>(
    GroupedProduct);
template __global__ void moegrad::cuda::product_kernel<16, 2, true, false, GroupedProduct>(
    GroupedProduct);

// Of words that lie by rows, and of transposed ones.
struct WordProduct : Product {
  bool a_whole, b_whole;
  __device__ const float* a_at(const Tile&, std::int64_t row, std::int64_t k) const {
    return x + row * depth + k;
  }
  __device__ const float* b_at(const Tile&, std::int64_t k, std::int64_t col) const {
    return w + k * cols + col;
  }
};
struct TransposedProduct : Product {
  bool a_whole, b_whole;
  __device__ const float* a_at(const Tile&, std::int64_t row, std::int64_t k) const {
    return x + k * rows + row;
  }
  __device__ const float* b_at(const Tile&, std::int64_t k, std::int64_t col) const {
    return w + col * depth + k;
  }
};
template __global__ void moegrad::cuda::product_kernel<64, 4, true, false, WordProduct>(
    WordProduct);
template __global__ void moegrad::cuda::product_kernel<64, 4, false, true, TransposedProduct>(
    TransposedProduct);

// On tensor cores.
struct MmaProduct : Product {
  __device__ const float* a_at(const Tile&, std::int64_t row, std::int64_t k) const {
    return x + row * depth + k;
  }
  __device__ const float* b_at(const Tile&, std::int64_t k, std::int64_t col) const {
    return w + k * cols + col;
  }
  __device__ void put(const Tile&, std::int64_t row, std::int64_t col, float value, bool) const {
    y[row * cols + col] = value;
  }
};
template __global__ void moegrad::cuda::mma_product_kernel<64, true, false, MmaProduct>(MmaProduct,
                                                                                        bool, bool);

// The scan of a plan, twice: its memory is used again.
__global__ void scan_form(const std::int32_t* x, std::int32_t* y) {
  std::int32_t total = 0;
  const std::int32_t before = moegrad::cuda::sum_before(x[threadIdx.x], &total);
  y[threadIdx.x] = moegrad::cuda::sum_before(before, &total);
}
