#pragma once

#include <cstdint>

#include "cuda/emulator/kernel.h"

// What of a matrix one block computes.
namespace moegrad::cuda {

struct Tile {
  int group = 0;
  int rows = 0, cols = 0;
  std::int64_t first_row = 0, first_col = 0;  // of the problem's
  std::int64_t first_k = 0, depth = 0;  // where the sum begins, for problems that ask; its terms
};

__host__ __device__ inline int at_most(int side, std::int64_t left) {
  return left < side ? static_cast<int>(left) : side;
}

// Rows [offsets[e], offsets[e+1]) belong to group e; the device alone knows them. Of tiles over them
// those of group e have the numbers from offsets[e] / side + e on: as many as it can need, so that a
// grid for `most` rows has room for whatever the groups are, and one number in a group may be of none.
template <class Offsets>
struct GroupsBy {
  Offsets offsets;
  std::int64_t count;

  std::int64_t most_tiles(std::int64_t most, int side) const { return most / side + count; }

  // The first group that begins(e + 1) puts behind a place; `count` if there is none.
  template <class Begins>
  __device__ std::int64_t before(std::int64_t place, const Begins& begins) const {
    std::int64_t low = 0;
    for (std::int64_t left = count; left > 0;) {  // low .. low + left, by steps that do not branch
      const std::int64_t half = (left + 1) / 2;
      low += begins(low + half) > place ? 0 : half;
      left -= half;
    }
    return low;
  }
  // The group of a row; `count` of none.
  __device__ std::int64_t of(std::int64_t row) const {
    return before(row, [this](std::int64_t e) { return std::int64_t{offsets[e]}; });
  }
  // The rows of the tile of that number; false: there are none.
  __device__ bool find(std::int64_t number, int side, Tile& tile) const {
    const auto first_tile = [=, this](std::int64_t e) { return offsets[e] / side + e; };
    const std::int64_t e = before(number, first_tile);
    if (e == count) return false;
    const std::int64_t done = (number - first_tile(e)) * side;
    const std::int64_t rows = offsets[e + 1] - offsets[e];
    if (done >= rows) return false;
    tile.group = static_cast<int>(e);
    tile.first_row = offsets[e] + done;
    tile.rows = at_most(side, rows - done);
    return true;
  }
};

using Groups = GroupsBy<const std::int32_t*>;

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
