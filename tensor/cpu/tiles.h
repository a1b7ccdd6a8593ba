#pragma once

#include <algorithm>

#include "tensor/cpu/parallel.h"
#include "tensor/tensor.h"

namespace moegrad::cpu {

// Rows of a tile: enough to use a matrix well, few enough to stay in the cache between two
// products.
inline constexpr std::int64_t kTileRows = 128;

inline std::int64_t tiles_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Rows [first, last) of one group.
struct Tile {
  std::int64_t index;
  std::int64_t group;
  std::int64_t first;
  std::int64_t last;
  int worker;

  std::int64_t rows() const { return last - first; }
};

// Pieces of at most `most` rows that lie in one group each, those of a group as equal as can be.
class GroupTiles {
 public:
  explicit GroupTiles(const Tensor& offsets, std::int64_t most = kTileRows)
      : groups_(offsets.numel() - 1) {
    const std::int32_t* const bounds = offsets.data<std::int32_t>();
    std::int64_t count = 0;
    for (std::int64_t e = 0; e < groups_; ++e) {
      count += tiles_of(bounds[e + 1] - bounds[e], most);
    }
    tiles_ = Tensor::empty({count, 3}, DType::i32, Device::cpu);
    starts_ = Tensor::empty({groups_ + 1}, DType::i32, Device::cpu);
    std::int32_t* tile = tiles_.write<std::int32_t>();
    std::int32_t* const starts = starts_.write<std::int32_t>();
    std::int32_t index = 0;
    for (std::int64_t e = 0; e < groups_; ++e) {
      starts[e] = index;
      const std::int64_t rows = bounds[e + 1] - bounds[e];
      const std::int64_t pieces = tiles_of(rows, most);
      for (std::int64_t i = 0; i < pieces; ++i) {
        *tile++ = static_cast<std::int32_t>(e);
        *tile++ = bounds[e] + static_cast<std::int32_t>(rows * i / pieces);
        *tile++ = bounds[e] + static_cast<std::int32_t>(rows * (i + 1) / pieces);
        ++index;
      }
    }
    starts[groups_] = index;
  }

  std::int64_t count() const { return tiles_.size(0); }
  std::int64_t groups() const { return groups_; }
  // Calls f(tile) for every tile, `cost` being that of a row, and a tile costing as much as `more`
  // rows besides its own. Tile::worker tells which workspace.
  template <class F>
  void for_each(std::int64_t cost, F&& f, std::int64_t more = 0) const {
    const std::int32_t* const tiles = tiles_.data<std::int32_t>();
    const auto run = [&](std::int64_t i, int worker) {
      f(Tile{i, tiles[3 * i], tiles[3 * i + 1], tiles[3 * i + 2], worker});
    };
    const std::int64_t rows = count() == 0 ? 0 : tiles[3 * count() - 1];
    if ((rows + count() * more) * cost <= kGrain) {
      for (std::int64_t i = 0; i < count(); ++i) run(i, 0);
    } else {
      parallel_pieces(count(), run);
    }
  }
  // The first tile of a group; that of group `groups()` is count().
  std::int64_t start(std::int64_t group) const { return starts_.data<std::int32_t>()[group]; }

 private:
  std::int64_t groups_;
  Tensor tiles_;
  Tensor starts_;
};

// The rows that belong to no group become 0; where there is no tensor, nothing does.
template <class T>
void clear_rest(const Tensor& offsets, const Tensor& rows) {
  if (!rows.defined()) return;
  const std::int64_t first = offsets.data<std::int32_t>()[offsets.numel() - 1];
  if (first == rows.size(0)) return;
  std::fill(rows.write<T>() + first * rows.size(1), rows.write<T>() + rows.numel(), T(0));
}

}  // namespace moegrad::cpu
