// Attention by tiles of queries and keys, in space that does not grow with L^2 (Dao et al.
// 2022, arXiv:2205.14135). Sums over keys and queries are in f64.
#include <limits>

#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::in;
using cuda::out;

constexpr int kAttentionThreads = 128;
constexpr int kMostTile = 16;

// The rows [first, first + length) of all, gone through by tiles of `tile` rows.
struct Sequence {
  std::int64_t first, length;
  int tile;
  bool causal;

  __device__ std::int64_t tiles() const { return (length + tile - 1) / tile; }
  __device__ int rows_of(std::int64_t t) const {
    const std::int64_t left = length - t * tile;
    return left < tile ? static_cast<int>(left) : tile;
  }
  __device__ std::int64_t first_row(std::int64_t t) const { return first + t * tile; }
};

// The sequences of [B, L, d]: B causal ones of L rows, or in each of the B those that lie one behind
// the other from `starts` on, the last of which is L.
struct Sequences {
  std::int64_t batch, length, width, longest;
  int tile;
  const std::int32_t* starts = nullptr;
  std::int64_t packed = 1;  // sequences in each of the batch

  // Of the longest; a block for each, of every sequence.
  __host__ __device__ std::int64_t tiles() const { return (longest + tile - 1) / tile; }
  std::int64_t blocks() const { return batch * packed * tiles(); }
  __device__ Sequence of_block(std::int64_t block) const {
    const std::int64_t s = block / tiles();
    if (starts == nullptr) return {s * length, length, tile, true};
    const std::int32_t* const start = starts + s % packed;
    return {s / packed * length + start[0], start[1] - start[0], tile, false};
  }
  template <class T>
  __device__ T scale() const {
    return T(1) / std::sqrt(static_cast<T>(width < 1 ? 1 : width));
  }
};

// f(i) for i in [0, n), shared among the threads of the block.
template <class F>
__device__ void share(std::int64_t n, const F& f) {
  for (std::int64_t i = threadIdx.x; i < n; i += kAttentionThreads) f(i);
}

template <class T>
__device__ T dot(const T* a, const T* b, std::int64_t n) {
  T sum(0);
  for (std::int64_t c = 0; c < n; ++c) sum = fma(a[c], b[c], sum);
  return sum;
}

// The block's shared memory, cut up: arrays of f64, then of T.
template <class T>
struct Room {
  unsigned char* at;
  template <class U>
  __device__ U* take(std::int64_t count) {
    U* const array = reinterpret_cast<U*>(at);
    at += count * sizeof(U);
    return array;
  }
};

// Of a tile of queries: out and lse. Keys come a tile at a time; what has been summed is relative
// to e^top.
template <class T>
__global__ void attend(Sequences s, const T* q, const T* k, const T* v, T* to, T* lse) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const Sequence own = s.of_block(blockIdx.x);
  const std::int64_t tile = blockIdx.x % s.tiles();
  if (tile >= own.tiles()) return;
  const std::int64_t first = own.first_row(tile);
  const int queries = own.rows_of(tile);
  const std::int64_t d = s.width;
  DYNAMIC_SHARED(unsigned char, memory);
  Room<T> room = {memory};
  double* const sums = room.template take<double>(s.tile * d);
  double* const total = room.template take<double>(s.tile);
  T* const q_rows = room.template take<T>(s.tile * d);
  T* const k_rows = room.template take<T>(s.tile * d);
  T* const v_rows = room.template take<T>(s.tile * d);
  T* const p = room.template take<T>(s.tile * s.tile);
  T* const top = room.template take<T>(s.tile);
  T* const factor = room.template take<T>(s.tile);

  share(queries * d, [=](std::int64_t i) {
    q_rows[i] = q[first * d + i];
    sums[i] = 0.0;
  });
  share(queries, [=](std::int64_t r) {
    top[r] = kLowest;
    total[r] = 0.0;
  });
  const std::int64_t end = own.causal ? tile + 1 : own.tiles();
  for (std::int64_t other = 0; other < end; ++other) {
    const std::int64_t from = own.first_row(other) * d;
    const int keys = own.rows_of(other);
    const auto seen_by = [=](std::int64_t r) {  // all keys, or those not after this query
      return own.causal && other == tile ? static_cast<int>(r) + 1 : keys;
    };
    __syncthreads();
    share(keys * d, [=](std::int64_t i) {
      k_rows[i] = k[from + i];
      v_rows[i] = v[from + i];
    });
    __syncthreads();
    share(queries * keys, [=](std::int64_t i) {
      const std::int64_t r = i / keys;
      const std::int64_t c = i % keys;
      if (c >= seen_by(r)) return;
      p[i] = s.template scale<T>() * dot(q_rows + r * d, k_rows + c * d, d);
    });
    __syncthreads();
    share(queries, [=](std::int64_t r) {
      T largest = top[r];
      for (int c = 0; c < seen_by(r); ++c) {
        const T x = p[r * keys + c];
        if (x > largest || x != x) largest = x;
      }
      const T shift = largest == kLowest ? T(0) : largest;
      factor[r] = math::exp(top[r] - shift);
      top[r] = largest;
      double sum = 0.0;
      for (int c = 0; c < seen_by(r); ++c) {
        p[r * keys + c] = math::exp(p[r * keys + c] - shift);
        sum += static_cast<double>(p[r * keys + c]);
      }
      total[r] = total[r] * static_cast<double>(factor[r]) + sum;
    });
    __syncthreads();
    share(queries * d, [=](std::int64_t i) {
      const std::int64_t r = i / d;
      T sum(0);
      for (int c = 0; c < seen_by(r); ++c) sum = fma(p[r * keys + c], v_rows[c * d + i % d], sum);
      sums[i] = sums[i] * static_cast<double>(factor[r]) + static_cast<double>(sum);
    });
  }
  // What a thread reads here of `sums` it has written itself, and the totals are a barrier ago.
  share(queries * d,
        [=](std::int64_t i) { to[first * d + i] = static_cast<T>(sums[i] / total[i / d]); });
  share(queries, [=](std::int64_t r) {
    lse[first + r] = static_cast<T>(static_cast<double>(top[r]) + math::log(total[r]));
  });
}

// What the way back knows of a pair (i, j): p = e^(s - lse), and the adjoint ds = p (dout_i v_j -
// <dout_i, out_i>) of its score, times the scale.
template <class T>
struct Pair {
  T p, ds;
};
template <class T>
__device__ Pair<T> pair_of(const Sequences& s, const T* q, const T* k, const T* v, const T* dout,
                           T lse, T product) {
  const T p = math::exp(s.template scale<T>() * dot(q, k, s.width) - lse);
  return {p, p * (dot(dout, v, s.width) - product) * s.template scale<T>()};
}

// dq of a tile of queries, over its keys; or dk and dv of a tile of keys, over the queries that see
// them. `mine` are the rows of the tile, `other` those that come by.
template <class T, bool kOfQueries>
__global__ void attend_backward(Sequences s, const T* q, const T* k, const T* v, const T* y,
                                const T* lse, const T* dout, T* dq, T* dk, T* dv) {
  const Sequence own = s.of_block(blockIdx.x);
  const std::int64_t tile = blockIdx.x % s.tiles();
  if (tile >= own.tiles()) return;
  const std::int64_t first = own.first_row(tile);
  const int mine = own.rows_of(tile);
  const std::int64_t d = s.width;
  DYNAMIC_SHARED(unsigned char, memory);
  Room<T> room = {memory};
  double* const sums = room.template take<double>(s.tile * d);
  double* const more_sums = room.template take<double>(s.tile * d);
  T* const a = room.template take<T>(s.tile * d);  // q or k of the tile
  T* const b = room.template take<T>(s.tile * d);  // dout or v of it
  T* const c = room.template take<T>(s.tile * d);  // k or q of the others
  T* const e = room.template take<T>(s.tile * d);  // v or dout of them
  T* const p = room.template take<T>(s.tile * s.tile);
  T* const ds = room.template take<T>(s.tile * s.tile);
  T* const product = room.template take<T>(s.tile);  // <dout_i, out_i> of the queries

  share(mine * d, [=](std::int64_t i) {
    a[i] = (kOfQueries ? q : k)[first * d + i];
    b[i] = (kOfQueries ? dout : v)[first * d + i];
    sums[i] = 0.0;
    more_sums[i] = 0.0;
  });
  const std::int64_t begin = kOfQueries || !own.causal ? 0 : tile;
  const std::int64_t end = kOfQueries && own.causal ? tile + 1 : own.tiles();
  for (std::int64_t other = begin; other < end; ++other) {
    const std::int64_t from = own.first_row(other);
    const int others = own.rows_of(other);
    const bool ends_here = own.causal && other == tile;  // some do not see some
    __syncthreads();
    share(others * d, [=](std::int64_t i) {
      c[i] = (kOfQueries ? k : q)[from * d + i];
      e[i] = (kOfQueries ? v : dout)[from * d + i];
    });
    const std::int64_t first_query = kOfQueries ? first : from;
    share(kOfQueries ? mine : others, [=](std::int64_t r) {
      product[r] = dot(dout + (first_query + r) * d, y + (first_query + r) * d, d);
    });
    __syncthreads();
    share(mine * others, [=](std::int64_t i) {
      const std::int64_t r = i / others;
      const std::int64_t o = i % others;
      const std::int64_t query = kOfQueries ? tile * s.tile + r : other * s.tile + o;
      const std::int64_t key = kOfQueries ? other * s.tile + o : tile * s.tile + r;
      if (own.causal && key > query) return;
      const T l = lse[own.first + query];
      const Pair<T> pair =
          kOfQueries ? pair_of(s, a + r * d, c + o * d, e + o * d, b + r * d, l, product[r])
                     : pair_of(s, c + o * d, a + r * d, b + r * d, e + o * d, l, product[o]);
      p[i] = pair.p;
      ds[i] = pair.ds;
    });
    __syncthreads();
    share(mine * d, [=](std::int64_t i) {
      const std::int64_t r = i / d;
      T sum(0);
      T more(0);
      // All, or the keys up to this query, or the queries from this key on.
      const int row = static_cast<int>(r);
      const int first_seen = !kOfQueries && ends_here ? row : 0;
      const int end_seen = kOfQueries && ends_here ? row + 1 : others;
      for (int o = first_seen; o < end_seen; ++o) {
        sum = fma(ds[r * others + o], c[o * d + i % d], sum);
        if constexpr (!kOfQueries) more = fma(p[r * others + o], e[o * d + i % d], more);
      }
      sums[i] += static_cast<double>(sum);
      more_sums[i] += static_cast<double>(more);
    });
  }
  // The sums that a thread reads here it has written itself.
  share(mine * d, [=](std::int64_t i) {
    (kOfQueries ? dq : dk)[first * d + i] = static_cast<T>(sums[i]);
    if constexpr (!kOfQueries) dv[first * d + i] = static_cast<T>(more_sums[i]);
  });
}

// Bytes of shared memory for tiles of `tile` rows with so many arrays of rows.
std::size_t room_for(int tile, std::int64_t width, int doubles, int others, std::size_t size) {
  const auto rows = static_cast<std::size_t>(tile);
  const auto cols = static_cast<std::size_t>(width);
  return rows * (cols + 1) * 8 * static_cast<std::size_t>(doubles) +
         rows * (cols * static_cast<std::size_t>(others) + 2 * rows + 2) * size;
}

// Causal sequences, gone through by the largest tile that a block has room for.
Sequences sequences_of(std::string_view operation, const Tensor& q, int doubles, int others) {
  constexpr std::size_t kRoom = 64 * 1024;  // that every device has: an sm_75 no more
  Sequences s = {q.size(0), q.size(1), q.size(2), q.size(1), kMostTile};
  const auto room = [&] { return room_for(s.tile, s.width, doubles, others, size_of(q.dtype())); };
  while (s.tile > 1 && room() > kRoom) s.tile /= 2;
  if (room() > kRoom) {
    fail(operation, "{} dimensions a head. Use fewer, by more heads.", s.width);
  }
  return s;
}

// The same rows, in sequences from `starts` on.
Sequences as_packed(Sequences s, const Tensor& starts, std::int64_t longest) {
  s.longest = longest;
  s.starts = in<std::int32_t>(starts);
  s.packed = starts.numel() - 1;
  return s;
}

constexpr int kForwardDoubles = 1;  // arrays of rows in shared memory, of f64 and of T
constexpr int kForwardOthers = 3;
constexpr int kBackwardDoubles = 2;
constexpr int kBackwardOthers = 4;

void run_forward(const char* operation, const Sequences& s, const Tensor& q, const Tensor& k,
                 const Tensor& v, const Tensor& t, const Tensor& lse) {
  with_floating(q.dtype(), operation, [&](auto zero) {
    using T = decltype(zero);
    cuda::run_with<attend<T>>(room_for(s.tile, s.width, kForwardDoubles, kForwardOthers, sizeof(T)),
                              operation, s.blocks(), kAttentionThreads, s, in<T>(q), in<T>(k),
                              in<T>(v), out<T>(t), out<T>(lse));
  });
}

void run_backward(const char* operation, const Sequences& s, const Tensor& q, const Tensor& k,
                  const Tensor& v, const Tensor& t, const Tensor& lse, const Tensor& dout,
                  const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  with_floating(q.dtype(), operation, [&](auto zero) {
    using T = decltype(zero);
    const auto run = [&]<bool kOfQueries>() {
      cuda::run_with<attend_backward<T, kOfQueries>>(
          room_for(s.tile, s.width, kBackwardDoubles, kBackwardOthers, sizeof(T)), operation,
          s.blocks(), kAttentionThreads, s, in<T>(q), in<T>(k), in<T>(v), in<T>(t), in<T>(lse),
          in<T>(dout), out<T>(dq), out<T>(dk), out<T>(dv));
    };
    run.template operator()<true>();
    run.template operator()<false>();
  });
}

}  // namespace

void CudaKernels::causal_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& t, const Tensor& lse) {
  constexpr const char* kName = "causal_attention";
  run_forward(kName, sequences_of(kName, q, kForwardDoubles, kForwardOthers), q, k, v, t, lse);
}

void CudaKernels::causal_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const Tensor& t, const Tensor& lse, const Tensor& dout,
                                            const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  constexpr const char* kName = "causal_attention_backward";
  run_backward(kName, sequences_of(kName, q, kBackwardDoubles, kBackwardOthers), q, k, v, t, lse,
               dout, dq, dk, dv);
}

void CudaKernels::packed_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const Tensor& starts, std::int64_t longest, const Tensor& t,
                                   const Tensor& lse) {
  constexpr const char* kName = "packed_attention";
  const Sequences s = sequences_of(kName, q, kForwardDoubles, kForwardOthers);
  run_forward(kName, as_packed(s, starts, longest), q, k, v, t, lse);
}

void CudaKernels::packed_attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                            const Tensor& starts, std::int64_t longest,
                                            const Tensor& t, const Tensor& lse, const Tensor& dout,
                                            const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  constexpr const char* kName = "packed_attention_backward";
  const Sequences s = sequences_of(kName, q, kBackwardDoubles, kBackwardOthers);
  run_backward(kName, as_packed(s, starts, longest), q, k, v, t, lse, dout, dq, dk, dv);
}

}  // namespace moegrad
