// Causal attention by tiles, in a few rows of scores at a time (Dao et al. 2022, FlashAttention,
// arXiv:2205.14135; the order of loops of Dao 2023, arXiv:2307.08691).

#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "tensor/cpu/finite.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lines.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/product.h"
#include "tensor/cpu/sum.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

using cpu::Matrix;

constexpr std::int64_t kScoreTile = 64;  // queries and keys of a tile of scores
constexpr std::int64_t kManySequences =
    8;  // from here on backward gives each sequence to one worker
// Tiles whose sums are added in the type of the numbers; beyond, sums of so many go to f64.
constexpr std::int64_t kTilesTogether = 16;

// Rows [first, first + count) of the sequences of a batch.
struct RowTile {
  std::int64_t first;
  std::int64_t count;
};

// The sizes of [B, L, d] and where things lie in it.
struct AttendedSequences {
  std::int64_t batch, length, width;

  explicit AttendedSequences(const Tensor& q)
      : batch(q.size(0)), length(q.size(1)), width(q.size(2)) {}
  std::int64_t tiles() const { return (length + kScoreTile - 1) / kScoreTile; }
  // What LongSums counts as summands: enough for sums in f64 where there are that many tiles.
  std::int64_t summands() const { return tiles() > kTilesTogether ? length : 0; }
  RowTile tile(std::int64_t t) const {
    return {t * kScoreTile, std::min(kScoreTile, length - t * kScoreTile)};
  }
  template <class T>
  T* rows(T* x, std::int64_t sequence, RowTile t) const {
    return x + (sequence * length + t.first) * width;
  }
  template <class T>
  T scale() const {
    return T(1) / std::sqrt(static_cast<T>(std::max<std::int64_t>(1, width)));
  }
};

// How many keys of a tile do not come after query r of another.
std::int64_t seen_keys(RowTile queries, RowTile keys, std::int64_t r) {
  return std::clamp<std::int64_t>(queries.first + r + 1 - keys.first, 0, keys.count);
}

// s [queries, kScoreTile] = scale q k^T, -infinity where the key comes after the query.
template <class T>
void scores_of(const AttendedSequences& all, const T* q, RowTile queries, const T* k, RowTile keys,
               T* s) {
  cpu::product(queries.count, keys.count, all.width, Matrix<T>{q, all.width},
               Matrix<T>{k, all.width, true}, T(0), s, kScoreTile);
  const T scale = all.scale<T>();
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = s + r * kScoreTile;
    for (std::int64_t c = 0; c < keys.count; ++c) row[c] *= scale;
    std::fill(row + seen_keys(queries, keys, r), row + keys.count,
              -std::numeric_limits<T>::infinity());
  }
}

// c = op(a) b + beta c for a [queries, keys], or its transpose, which is 0 where the key comes after
// the query: there b, of rows [.., width], does not count, even where it is not finite.
template <class T>
void seen_product(RowTile queries, RowTile keys, std::int64_t width, Matrix<T> a, const T* b,
                  T beta, T* c) {
  const std::int64_t rows = a.transposed ? keys.count : queries.count;
  const std::int64_t depth = a.transposed ? queries.count : keys.count;
  const auto multiply = [&](const T* right) {
    cpu::product(rows, width, depth, a, Matrix<T>{right, width}, beta, c, width);
  };
  const bool sees_all = seen_keys(queries, keys, 0) == keys.count;
  if (sees_all || cpu::all_finite(b, depth * width)) return multiply(b);
  multiply(cpu::finite_part(b, depth * width).data());
  for (std::int64_t i = 0; i < depth * width; ++i) {
    if (cpu::is_finite(b[i])) continue;
    const std::int64_t l = i / width;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t query = queries.first + (a.transposed ? l : r);
      const std::int64_t key = keys.first + (a.transposed ? r : l);
      const T factor = a.data[a.transposed ? l * a.stride + r : r * a.stride + l];
      if (key <= query) c[r * width + i % width] += factor * b[i];
    }
  }
}

// The largest of n numbers, -infinity where there is none. NaN is passed over: the sum has it.
template <class T>
T largest(const T* x, std::int64_t n) {
  std::array<T, cpu::kPack> top;
  top.fill(-std::numeric_limits<T>::infinity());
  const auto take = [&top](std::int64_t lane, T value) {
    T& t = top[static_cast<std::size_t>(lane)];
    t = value > t ? value : t;
  };
  std::int64_t i = 0;
  for (; i + cpu::kPack <= n; i += cpu::kPack) {
    for (std::int64_t l = 0; l < cpu::kPack; ++l) take(l, x[i + l]);
  }
  for (; i < n; ++i) take(0, x[i]);
  for (std::int64_t half = cpu::kPack / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) take(l, top[static_cast<std::size_t>(l + half)]);
  }
  return top[0];
}

// x [queries, kScoreTile] = e^(x - shift of the row), 0 where the key comes after the query.
template <class T>
void exp_rows(RowTile queries, RowTile keys, const T* shift, T* x) {
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = x + r * kScoreTile;
    const T by = shift[r];
    const std::int64_t seen = seen_keys(queries, keys, r);
    const std::int64_t packs = (seen + cpu::kPack - 1) / cpu::kPack;  // of them no rest is left
    const std::int64_t end = std::min(keys.count, packs * cpu::kPack);
    for (std::int64_t c = 0; c < end; ++c) row[c] = math::exp(row[c] - by);
    std::fill(row + seen, row + keys.count, T(0));
  }
}

// The sums of a tile of queries in f64, of what was summed in T relative to e^shift.
template <class T>
class AttendedSums {
 public:
  AttendedSums(std::int64_t rows, std::int64_t width)
      : width_(width),
        shift_(static_cast<std::size_t>(rows), -std::numeric_limits<double>::infinity()),
        sum_(shift_.size(), 0.0),
        out_(static_cast<std::size_t>(rows * width), 0.0) {}

  // Adds the sums of row r, and gives back all so far.
  void add(std::int64_t r, T shift, T& sum, T* out) {
    const auto row = static_cast<std::size_t>(r);
    // Of nothing nothing is left, whatever its shift was.
    const double factor =
        sum_[row] == 0.0 ? 0.0 : std::exp(shift_[row] - static_cast<double>(shift));
    shift_[row] = static_cast<double>(shift);
    sum = static_cast<T>(sum_[row] = sum_[row] * factor + static_cast<double>(sum));
    double* const total = out_.data() + r * width_;
    for (std::int64_t c = 0; c < width_; ++c) {
      out[c] = static_cast<T>(total[c] = total[c] * factor + static_cast<double>(out[c]));
    }
  }

 private:
  std::int64_t width_;
  PoolVector<double> shift_, sum_, out_;
};

// One tile of queries over all its keys. `s` has kScoreTile^2 elements, `top` kScoreTile, `sum`
// kScoreTile.
template <class T>
void attend(const AttendedSequences& all, std::int64_t sequence, std::int64_t tile, const T* q,
            const T* k, const T* v, T* s, T* top, T* sum, T* out, T* lse) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const RowTile queries = all.tile(tile);
  const T* const q_rows = all.rows(q, sequence, queries);
  T* const out_rows = all.rows(out, sequence, queries);
  std::fill(top, top + queries.count, kLowest);
  std::optional<AttendedSums<T>> totals;
  if (tile >= kTilesTogether) totals.emplace(queries.count, all.width);
  for (std::int64_t t = 0; t <= tile; ++t) {
    const RowTile keys = all.tile(t);
    const bool starts = t % kTilesTogether == 0;  // sums of their own
    scores_of(all, q_rows, queries, all.rows(k, sequence, keys), keys, s);
    T shift[kScoreTile];
    T factor[kScoreTile];
    for (std::int64_t r = 0; r < queries.count; ++r) {
      const T before = top[r];
      top[r] = std::max(before, largest(s + r * kScoreTile, keys.count));
      shift[r] = top[r] == kLowest ? T(0) : top[r];
      factor[r] = before - shift[r];
    }
    if (starts) {
      std::fill(sum, sum + queries.count, T(0));
    } else {  // what was summed so far was relative to the largest score before
      for (std::int64_t r = 0; r < queries.count; ++r) factor[r] = math::exp(factor[r]);
      for (std::int64_t r = 0; r < queries.count; ++r) {
        const T by = factor[r];
        sum[r] *= by;
        T* const so_far = out_rows + r * all.width;
        for (std::int64_t c = 0; c < all.width; ++c) so_far[c] *= by;
      }
    }
    exp_rows(queries, keys, shift, s);
    for (std::int64_t r = 0; r < queries.count; ++r) {
      const T* const row = s + r * kScoreTile;
      sum[r] += cpu::lane_sum<T>(keys.count, [=](std::int64_t c) { return row[c]; });
    }
    seen_product(queries, keys, all.width, Matrix<T>{s, kScoreTile}, all.rows(v, sequence, keys),
                 starts ? T(0) : T(1), out_rows);
    if (!totals || (t < tile && (t + 1) % kTilesTogether > 0)) continue;
    for (std::int64_t r = 0; r < queries.count; ++r) {
      totals->add(r, shift[r], sum[r], out_rows + r * all.width);
    }
  }
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = out_rows + r * all.width;
    for (std::int64_t c = 0; c < all.width; ++c) row[c] /= sum[r];
    lse[sequence * all.length + queries.first + r] = top[r] + math::log(sum[r]);
  }
}

// What backward reads, and what it adds to.
template <class T>
struct AttentionGradients {
  const T *q, *k, *v, *dout, *lse, *delta;
  T *dq, *dk, *dv;
};

// The contributions of one tile of queries and one of keys: to dk and dv, to dq, or to all. With
// p = e^(s - lse) and ds = p (dout v^T - delta): dv += p^T dout, dk += scale ds^T q, dq += scale
// ds k. `p` and `ds` have kScoreTile^2 elements each.
template <class T>
void add_tile(const AttendedSequences& all, std::int64_t sequence, std::int64_t query_tile,
              std::int64_t key_tile, bool to_keys, bool to_queries, const AttentionGradients<T>& g,
              T* p, T* ds) {
  const RowTile queries = all.tile(query_tile);
  const RowTile keys = all.tile(key_tile);
  const auto of_queries = [&](auto* x) { return all.rows(x, sequence, queries); };
  const auto of_keys = [&](auto* x) { return all.rows(x, sequence, keys); };
  const std::int64_t first = sequence * all.length + queries.first;
  const std::int64_t width = all.width;
  scores_of(all, of_queries(g.q), queries, of_keys(g.k), keys, p);
  exp_rows(queries, keys, g.lse + first, p);
  if (to_keys) {
    seen_product(queries, keys, width, Matrix<T>{p, kScoreTile, true}, of_queries(g.dout), T(1),
                 of_keys(g.dv));
  }
  cpu::product(queries.count, keys.count, width, Matrix<T>{of_queries(g.dout), width},
               Matrix<T>{of_keys(g.v), width, true}, T(0), ds, kScoreTile);
  const T scale = all.scale<T>();
  for (std::int64_t r = 0; r < queries.count; ++r) {
    const T delta = g.delta[first + r];
    T* const row = ds + r * kScoreTile;
    for (std::int64_t c = 0; c < keys.count; ++c) {
      row[c] = scale * p[r * kScoreTile + c] * (row[c] - delta);
    }
    std::fill(row + seen_keys(queries, keys, r), row + keys.count, T(0));
  }
  if (to_keys) {
    seen_product(queries, keys, width, Matrix<T>{ds, kScoreTile, true}, of_queries(g.q), T(1),
                 of_keys(g.dk));
  }
  if (to_queries) {
    seen_product(queries, keys, width, Matrix<T>{ds, kScoreTile}, of_keys(g.k), T(1),
                 of_queries(g.dq));
  }
}

}  // namespace

void CpuKernels::causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse) {
  const AttendedSequences all(q);
  with_floating(out.dtype(), "causal_attention", [&](auto zero) {
    using T = decltype(zero);
    constexpr std::int64_t kAttentionSpace = kScoreTile * kScoreTile + 2 * kScoreTile;
    const T* const q_data = q.data<T>();
    const T* const k_data = k.data<T>();
    const T* const v_data = v.data<T>();
    T* const out_data = out.write<T>();
    T* const lse_data = lse.write<T>();
    const Tensor workspace =
        Tensor::empty({cpu::workers(), kAttentionSpace}, dtype_of<T>, Device::cpu);
    T* const space = workspace.write<T>();
    // The last tiles of a sequence have the most keys: they come first.
    cpu::parallel_pieces(all.batch * all.tiles(), [=](std::int64_t piece, int worker) {
      T* const s = space + worker * kAttentionSpace;
      T* const top = s + kScoreTile * kScoreTile;
      attend(all, piece % all.batch, all.tiles() - 1 - piece / all.batch, q_data, k_data, v_data, s,
             top, top + kScoreTile, out_data, lse_data);
    });
  });
}

void CpuKernels::causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const Tensor& out, const Tensor& lse, const Tensor& dout,
                                           const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const AttendedSequences all(q);
  with_floating(dq.dtype(), "causal_attention_backward", [&](auto zero) {
    using T = decltype(zero);
    constexpr std::int64_t kAttentionSpace = 2 * kScoreTile * kScoreTile;
    const Tensor deltas = Tensor::empty(lse.shape(), dtype_of<T>, Device::cpu);
    T* const delta = deltas.write<T>();
    const T* const o = out.data<T>();
    const AttentionGradients<T> g{q.data<T>(),    k.data<T>(),   v.data<T>(),
                                  dout.data<T>(), lse.data<T>(), delta,
                                  dq.write<T>(),  dk.write<T>(), dv.write<T>()};
    // delta = the sum of dout out of each row
    const std::int64_t width = all.width;
    cpu::parallel_for(all.batch * all.length, cpu::items_per_grain(width),
                      [=](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t r = begin; r < end; ++r) {
                          delta[r] = cpu::lane_sum<T>(width, [=](std::int64_t c) {
                            return g.dout[r * width + c] * o[r * width + c];
                          });
                        }
                      });
    const Tensor workspace =
        Tensor::empty({cpu::workers(), kAttentionSpace}, dtype_of<T>, Device::cpu);
    T* const space = workspace.write<T>();
    const std::int64_t tiles = all.tiles();
    // The sums of rows of dq, dk or dv, of which each tile adds something.
    const auto sums_of = [=](T* rows, std::int64_t count) {
      return cpu::LongSums<T>(rows, count * width, all.summands(), kTilesTogether);
    };
    const auto sums_of_tile = [=](T* x, std::int64_t sequence, std::int64_t tile) {
      return sums_of(all.rows(x, sequence, all.tile(tile)), all.tile(tile).count);
    };
    if (all.batch >= kManySequences) {
      cpu::parallel_pieces(all.batch, [=](std::int64_t sequence, int worker) {
        T* const p = space + worker * kAttentionSpace;
        auto to_queries = sums_of(g.dq + sequence * all.length * width, all.length);
        for (std::int64_t key = 0; key < tiles; ++key) {
          auto to_keys = sums_of_tile(g.dk, sequence, key);
          auto to_values = sums_of_tile(g.dv, sequence, key);
          for (std::int64_t query = key; query < tiles; ++query) {
            add_tile(all, sequence, query, key, true, true, g, p, p + kScoreTile * kScoreTile);
            to_keys.added();
            to_values.added();
          }
          to_keys.finish();
          to_values.finish();
          to_queries.added();
        }
        to_queries.finish();
      });
      return;
    }
    // Few sequences: a piece owns the rows of one tile, of dk and dv or of dq. It computes the
    // scores for itself; the sums have the same order as above.
    cpu::parallel_pieces(2 * all.batch * tiles, [=](std::int64_t piece, int worker) {
      T* const p = space + worker * kAttentionSpace;
      const std::int64_t sequence = piece / 2 % all.batch;
      const std::int64_t place = piece / 2 / all.batch;  // the longest first
      if (piece % 2 == 0) {
        auto to_keys = sums_of_tile(g.dk, sequence, place);
        auto to_values = sums_of_tile(g.dv, sequence, place);
        for (std::int64_t query = place; query < tiles; ++query) {
          add_tile(all, sequence, query, place, true, false, g, p, p + kScoreTile * kScoreTile);
          to_keys.added();
          to_values.added();
        }
        to_keys.finish();
        to_values.finish();
      } else {
        const std::int64_t query = tiles - 1 - place;
        auto to_queries = sums_of_tile(g.dq, sequence, query);
        for (std::int64_t key = 0; key <= query; ++key) {
          add_tile(all, sequence, query, key, false, true, g, p, p + kScoreTile * kScoreTile);
          to_queries.added();
        }
        to_queries.finish();
      }
    });
  });
}

}  // namespace moegrad
