#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/tensor.h"

namespace moegrad::cpu {

// Where the sequences of attention lie, by tiles of rows, and which rows see which.

constexpr std::int64_t kScoreTile = 64;  // queries and keys of a tile of scores
// Tiles whose sums are added in the type of the numbers; beyond, sums of so many go to f64.
constexpr std::int64_t kTilesTogether = 16;

// Rows [first, first + count) of a sequence.
struct RowTile {
  std::int64_t first;
  std::int64_t count;
};

// A tile of queries and one of keys: which of the keys a query sees.
struct TilePair {
  RowTile queries, keys;
  bool causal;

  // How many keys query r sees: the first ones, of a causal sequence those not after it.
  std::int64_t seen(std::int64_t r) const {
    if (!causal) return keys.count;
    return std::clamp<std::int64_t>(queries.first + r + 1 - keys.first, 0, keys.count);
  }
  bool sees_all() const { return seen(0) == keys.count; }
};

// The rows [first, first + length) of all of them.
struct Sequence {
  std::int64_t first, length;
  bool causal;

  std::int64_t tiles() const { return (length + kScoreTile - 1) / kScoreTile; }
  RowTile tile(std::int64_t t) const {
    return {t * kScoreTile, std::min(kScoreTile, length - t * kScoreTile)};
  }
  TilePair pair(std::int64_t queries, std::int64_t keys) const {
    return {tile(queries), tile(keys), causal};
  }
  // The tiles of keys that queries see end here, and those of queries that see keys begin here.
  std::int64_t end_of_keys(std::int64_t queries) const { return causal ? queries + 1 : tiles(); }
  std::int64_t first_queries(std::int64_t keys) const { return causal ? keys : 0; }
  // What LongSums counts as summands: enough for sums in f64 where there are that many tiles.
  std::int64_t summands() const { return tiles() > kTilesTogether ? length : 0; }
};

// The sequences of [B, L, d]: B causal ones of L rows, or in each of the B those that lie one behind
// the other from `starts` on, the last of which is L.
struct AttendedSequences {
  std::int64_t batch, length, width, longest;
  const std::int32_t* starts = nullptr;
  std::int64_t packed = 1;  // sequences in each of the batch

  explicit AttendedSequences(const Tensor& q)
      : batch(q.size(0)), length(q.size(1)), width(q.size(2)), longest(length) {}
  AttendedSequences(const Tensor& q, const Tensor& from, std::int64_t most) : AttendedSequences(q) {
    starts = from.data<std::int32_t>();
    packed = from.numel() - 1;
    longest = most;
  }
  std::int64_t count() const { return batch * packed; }
  std::int64_t tiles() const { return (longest + kScoreTile - 1) / kScoreTile; }  // at most
  Sequence sequence(std::int64_t s) const {
    if (starts == nullptr) return {s * length, length, true};
    const std::int32_t* const start = starts + s % packed;
    return {s / packed * length + start[0], start[1] - start[0], false};
  }
  template <class T>
  T* rows(T* x, const Sequence& s, RowTile t) const {
    return x + (s.first + t.first) * width;
  }
  template <class T>
  T scale() const {
    return T(1) / std::sqrt(static_cast<T>(std::max<std::int64_t>(1, width)));
  }
};

}  // namespace moegrad::cpu
