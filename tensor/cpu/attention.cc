// Attention by tiles, in a few rows of scores at a time (Dao et al. 2022, FlashAttention,
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
#include "tensor/cpu/sequences.h"
#include "tensor/cpu/sum.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

using cpu::AttendedSequences;
using cpu::kScoreTile;
using cpu::kTilesTogether;
using cpu::Matrix;
using cpu::RowTile;
using cpu::Sequence;
using cpu::TilePair;

// Rows of that many of the longest sequence: from here on backward gives each to one worker.
constexpr std::int64_t kManySequences = 8;

// s [queries, kScoreTile] = scale q k^T, -infinity where the query does not see the key.
template <class T>
void scores_of(const AttendedSequences& all, const TilePair& tiles, const T* q, const T* k, T* s) {
  const auto [queries, keys, causal] = tiles;
  cpu::product(queries.count, keys.count, all.width, Matrix<T>{q, all.width},
               Matrix<T>{k, all.width, true}, T(0), s, kScoreTile);
  const T scale = all.scale<T>();
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = s + r * kScoreTile;
    for (std::int64_t c = 0; c < keys.count; ++c) row[c] *= scale;
    std::fill(row + tiles.seen(r), row + keys.count, -std::numeric_limits<T>::infinity());
  }
}

// c = op(a) b + beta c for a [queries, keys], or its transpose, which is 0 where the query does not
// see the key: there b, of rows [.., width], does not count, even where it is not finite.
template <class T>
void seen_product(const TilePair& tiles, std::int64_t width, Matrix<T> a, const T* b, T beta,
                  T* c) {
  const auto [queries, keys, causal] = tiles;
  const std::int64_t rows = a.transposed ? keys.count : queries.count;
  const std::int64_t depth = a.transposed ? queries.count : keys.count;
  const auto multiply = [&](const T* right) {
    cpu::product(rows, width, depth, a, Matrix<T>{right, width}, beta, c, width);
  };
  if (tiles.sees_all() || cpu::all_finite(b, depth * width)) return multiply(b);
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

// x [queries, kScoreTile] = e^(x - shift of the row), 0 where the query does not see the key.
template <class T>
void exp_rows(const TilePair& tiles, const T* shift, T* x) {
  const auto [queries, keys, causal] = tiles;
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = x + r * kScoreTile;
    const T by = shift[r];
    const std::int64_t seen = tiles.seen(r);
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
void attend(const AttendedSequences& all, const Sequence& sequence, std::int64_t tile, const T* q,
            const T* k, const T* v, T* s, T* top, T* sum, T* out, T* lse) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const RowTile queries = sequence.tile(tile);
  const std::int64_t end = sequence.end_of_keys(tile);
  const T* const q_rows = all.rows(q, sequence, queries);
  T* const out_rows = all.rows(out, sequence, queries);
  std::fill(top, top + queries.count, kLowest);
  std::optional<AttendedSums<T>> totals;
  if (end > kTilesTogether) totals.emplace(queries.count, all.width);
  for (std::int64_t t = 0; t < end; ++t) {
    const TilePair tiles = sequence.pair(tile, t);
    const RowTile keys = tiles.keys;
    const bool starts = t % kTilesTogether == 0;  // sums of their own
    scores_of(all, tiles, q_rows, all.rows(k, sequence, keys), s);
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
    exp_rows(tiles, shift, s);
    for (std::int64_t r = 0; r < queries.count; ++r) {
      const T* const row = s + r * kScoreTile;
      sum[r] += cpu::lane_sum<T>(keys.count, [=](std::int64_t c) { return row[c]; });
    }
    seen_product(tiles, all.width, Matrix<T>{s, kScoreTile}, all.rows(v, sequence, keys),
                 starts ? T(0) : T(1), out_rows);
    if (!totals || (t + 1 < end && (t + 1) % kTilesTogether > 0)) continue;
    for (std::int64_t r = 0; r < queries.count; ++r) {
      totals->add(r, shift[r], sum[r], out_rows + r * all.width);
    }
  }
  for (std::int64_t r = 0; r < queries.count; ++r) {
    T* const row = out_rows + r * all.width;
    for (std::int64_t c = 0; c < all.width; ++c) row[c] /= sum[r];
    lse[sequence.first + queries.first + r] = top[r] + math::log(sum[r]);
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
void add_tile(const AttendedSequences& all, const Sequence& sequence, const TilePair& tiles,
              bool to_keys, bool to_queries, const AttentionGradients<T>& g, T* p, T* ds) {
  const RowTile queries = tiles.queries;
  const RowTile keys = tiles.keys;
  const auto of_queries = [&](auto* x) { return all.rows(x, sequence, queries); };
  const auto of_keys = [&](auto* x) { return all.rows(x, sequence, keys); };
  const std::int64_t first = sequence.first + queries.first;
  const std::int64_t width = all.width;
  scores_of(all, tiles, of_queries(g.q), of_keys(g.k), p);
  exp_rows(tiles, g.lse + first, p);
  if (to_keys) {
    seen_product(tiles, width, Matrix<T>{p, kScoreTile, true}, of_queries(g.dout), T(1),
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
    std::fill(row + tiles.seen(r), row + keys.count, T(0));
  }
  if (to_keys) {
    seen_product(tiles, width, Matrix<T>{ds, kScoreTile, true}, of_queries(g.q), T(1),
                 of_keys(g.dk));
  }
  if (to_queries) {
    seen_product(tiles, width, Matrix<T>{ds, kScoreTile}, of_keys(g.k), T(1), of_queries(g.dq));
  }
}

void attention_forward(std::string_view operation, const AttendedSequences& all, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  with_floating(out.dtype(), operation, [&](auto zero) {
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
    // The last tiles of a causal sequence have the most keys: they come first.
    cpu::parallel_pieces(all.count() * all.tiles(), [=](std::int64_t piece, int worker) {
      T* const s = space + worker * kAttentionSpace;
      T* const top = s + kScoreTile * kScoreTile;
      const Sequence sequence = all.sequence(piece % all.count());
      const std::int64_t tile = all.tiles() - 1 - piece / all.count();
      if (tile >= sequence.tiles()) return;
      attend(all, sequence, tile, q_data, k_data, v_data, s, top, top + kScoreTile, out_data,
             lse_data);
    });
  });
}

void attention_backward(std::string_view operation, const AttendedSequences& all, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  with_floating(dq.dtype(), operation, [&](auto zero) {
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
    // The sums of rows of dq, dk or dv, of which each tile adds something.
    const auto sums_of = [=](T* rows, std::int64_t count, const Sequence& sequence) {
      return cpu::LongSums<T>(rows, count * width, sequence.summands(), kTilesTogether);
    };
    const auto sums_of_tile = [=](T* x, const Sequence& sequence, std::int64_t tile) {
      const RowTile rows = sequence.tile(tile);
      return sums_of(all.rows(x, sequence, rows), rows.count, sequence);
    };
    if (all.batch * all.length >= kManySequences * all.longest) {
      cpu::parallel_pieces(all.count(), [=](std::int64_t piece, int worker) {
        T* const p = space + worker * kAttentionSpace;
        const Sequence sequence = all.sequence(piece);
        auto to_queries = sums_of(g.dq + sequence.first * width, sequence.length, sequence);
        for (std::int64_t key = 0; key < sequence.tiles(); ++key) {
          auto to_keys = sums_of_tile(g.dk, sequence, key);
          auto to_values = sums_of_tile(g.dv, sequence, key);
          for (std::int64_t query = sequence.first_queries(key); query < sequence.tiles();
               ++query) {
            add_tile(all, sequence, sequence.pair(query, key), true, true, g, p,
                     p + kScoreTile * kScoreTile);
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
    cpu::parallel_pieces(2 * all.count() * all.tiles(), [=](std::int64_t piece, int worker) {
      T* const p = space + worker * kAttentionSpace;
      const Sequence sequence = all.sequence(piece / 2 % all.count());
      const std::int64_t place = piece / 2 / all.count();  // of causal ones the longest first
      if (place >= sequence.tiles()) return;
      if (piece % 2 == 0) {
        auto to_keys = sums_of_tile(g.dk, sequence, place);
        auto to_values = sums_of_tile(g.dv, sequence, place);
        for (std::int64_t query = sequence.first_queries(place); query < sequence.tiles();
             ++query) {
          add_tile(all, sequence, sequence.pair(query, place), true, false, g, p,
                   p + kScoreTile * kScoreTile);
          to_keys.added();
          to_values.added();
        }
        to_keys.finish();
        to_values.finish();
      } else {
        const std::int64_t query = sequence.tiles() - 1 - place;
        auto to_queries = sums_of_tile(g.dq, sequence, query);
        for (std::int64_t key = 0; key < sequence.end_of_keys(query); ++key) {
          add_tile(all, sequence, sequence.pair(query, key), false, true, g, p,
                   p + kScoreTile * kScoreTile);
          to_queries.added();
        }
        to_queries.finish();
      }
    });
  });
}

}  // namespace

void CpuKernels::causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& out, const Tensor& lse) {
  attention_forward("causal_attention", AttendedSequences(q), q, k, v, out, lse);
}

void CpuKernels::causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const Tensor& out, const Tensor& lse, const Tensor& dout,
                                           const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  attention_backward("causal_attention_backward", AttendedSequences(q), q, k, v, out, lse, dout, dq,
                     dk, dv);
}

void CpuKernels::packed_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& starts, std::int64_t longest, const Tensor& out,
                                  const Tensor& lse) {
  attention_forward("packed_attention", AttendedSequences(q, starts, longest), q, k, v, out, lse);
}

void CpuKernels::packed_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const Tensor& starts, std::int64_t longest,
                                           const Tensor& out, const Tensor& lse, const Tensor& dout,
                                           const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  attention_backward("packed_attention_backward", AttendedSequences(q, starts, longest), q, k, v,
                     out, lse, dout, dq, dk, dv);
}

}  // namespace moegrad
