#pragma once

#include <cstdint>

#include "cuda/emulator/bf16.h"
#include "cuda/emulator/mma.h"
#include "cuda/product.h"

// Products on tensor cores, of the problems of product.h whose elements are words in memory: f32,
// which are rounded to TF32 when they are multiplied, or pairs of bf16 that follow one another along
// the depth, which then counts pairs. In place of a() and b() a problem tells where the words are:
//
//     __device__ const Word* a_at(const Tile&, std::int64_t row, std::int64_t k) const;
//     __device__ const Word* b_at(const Tile&, std::int64_t k, std::int64_t col) const;
//     bool a_aligned() const, b_aligned() const;  // rows, or columns, begin at multiples of 16 bytes
//     __device__ void put(const Tile&, row, col, float value, bool more) const;
//
// A block of four warps owns a tile of kSide x kSide elements, each warp a quarter. It goes through
// the depth in steps of 64 bytes; while one is multiplied, the next is on its way to the other half
// of shared memory. Sums are f32: an element is rounded once for each kMmaWords words, and after
// kPiece words the sum so far is put, those that follow are added to it (`more`). So
//
//   |error| <= (min(depth, kPiece) / kMmaWords + depth / kPiece + 1) 2^-23 sum |a| |b|
//
// of the products of rounded operands: a device may cut off where the emulator rounds.
namespace moegrad::cuda {

using Pair = std::uint32_t;

inline constexpr int kMmaThreads = 128;
inline constexpr int kMmaStep = 16;  // words of the depth
inline constexpr int kMmaWords = 8;  // those that one instruction adds up
inline constexpr std::int64_t kPiece = 1024;
inline constexpr int kMmaLargeSide = 128;
inline constexpr int kMmaSmallSide = 64;

// Where word k of a line (a row of a, a column of b) of a step lies in shared memory; kAlong: words
// of a line lie side by side, else those of neighbouring lines do, as in memory. Four words stay
// together. What a warp reads at once, of 8 lines 4 words each, is in 32 different banks: along, fours
// are moved about; else there is room between the lines.
template <int kSide, bool kAlong>
__host__ __device__ constexpr int place_of(int line, int k) {
  return kAlong ? line * kMmaStep + (k / 4 ^ line / 2 % 4) * 4 + k % 4 : k * (kSide + 8) + line;
}
constexpr int room_of(int side, bool along) { return kMmaStep * (along ? side : side + 8); }

// Four words, the last of them 0 where there are fewer, to shared memory.
template <class Word>
__device__ void bring(const Word* from, int words, bool aligned, Word* to) {
  if (aligned && words >= 4) {
    __pipeline_memcpy_async(to, from, 16);
    return;
  }
  for (int i = 0; i < 4; ++i) {
    if (i < words) {
      __pipeline_memcpy_async(to + i, from + i, 4);
    } else {
      to[i] = Word(0);
    }
  }
}

// What brings one factor's part of each step: at(line, k) tells where a word is.
template <int kSide, bool kAlong, class Word, class At>
struct Carrier {
  static constexpr int kQuads = kSide * kMmaStep / 4 / kMmaThreads;  // of a thread, a step
  At at;
  int lines;
  std::int64_t depth;
  bool aligned;
  const Word* begin[kQuads];  // of the lines of this thread, where words lie along them

  __device__ Carrier(At where, int of_lines, std::int64_t of_depth, bool all_aligned)
      : at(where), lines(of_lines), depth(of_depth), aligned(all_aligned) {
    UNROLL
    for (int i = 0; i < kQuads; ++i) {
      begin[i] = kAlong && line(i) < lines && word(i) < depth ? at(line(i), word(i)) : nullptr;
    }
  }
  __device__ static int number(int i) { return i * kMmaThreads + static_cast<int>(threadIdx.x); }
  __device__ static int line(int i) {
    return kAlong ? number(i) / (kMmaStep / 4) : number(i) % (kSide / 4) * 4;
  }
  __device__ static int word(int i) {
    return kAlong ? number(i) % (kMmaStep / 4) * 4 : number(i) / (kSide / 4);
  }
  // The words [first, first + kMmaStep) of the depth.
  __device__ void step(std::int64_t first, Word* to) const {
    const int left = at_most(kMmaStep, depth - first);
    UNROLL
    for (int i = 0; i < kQuads; ++i) {
      const bool inside = line(i) < lines && word(i) < left;
      const int words = !inside ? 0 : kAlong ? left - word(i) : lines - line(i);
      const Word* const from = !inside  ? nullptr
                               : kAlong ? begin[i] + first
                                        : at(line(i), first + word(i));
      bring(from, words, aligned, to + place_of<kSide, kAlong>(line(i), word(i)));
    }
  }
};
template <int kSide, bool kAlong, class Word, class At>
__device__ Carrier<kSide, kAlong, Word, At> carrier(At at, int lines, std::int64_t depth,
                                                    bool aligned) {
  return {at, lines, depth, aligned};
}

__device__ inline float operand(float x) { return cuda_emulator::to_tf32(x); }
__device__ inline Pair operand(Pair x) { return x; }
__device__ inline void multiply_add(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  cuda_emulator::mma_tf32(d, a, b);
}
__device__ inline void multiply_add(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
  cuda_emulator::mma_bf16(d, a, b);
}

// A warp's part of a tile: instructions' [16, 8] elements down and across, of which a lane has four
// each.
template <int kSide>
struct WarpSums {
  static constexpr int kDown = kSide / 2 / 16;
  static constexpr int kAcross = kSide / 2 / 8;
  float d[kDown][kAcross][4] = {};
  int first_row = static_cast<int>(threadIdx.x / kWarp) % 2 * (kSide / 2);
  int first_col = static_cast<int>(threadIdx.x / kWarp) / 2 * (kSide / 2);
  int group = static_cast<int>(threadIdx.x % kWarp) / 4;  // g and t of emulator/mma.h
  int member = static_cast<int>(threadIdx.x) % 4;

  template <bool kAlongA, bool kAlongB, class Word>
  __device__ void add(const Word* of_a, const Word* of_b) {
    const auto a_word = [&](int row, int k) {
      return operand(of_a[place_of<kSide, kAlongA>(first_row + group + row, member + k)]);
    };
    const auto b_word = [&](int k, int col) {
      return operand(of_b[place_of<kSide, kAlongB>(first_col + group + col, member + k)]);
    };
    UNROLL
    for (int k = 0; k < kMmaStep; k += kMmaWords) {
      Word a[kDown][4];
      Word b[kAcross][2];
      UNROLL
      for (int i = 0; i < kDown; ++i) {
        UNROLL
        for (int e = 0; e < 4; ++e) a[i][e] = a_word(16 * i + e % 2 * 8, k + e / 2 * 4);
      }
      UNROLL
      for (int j = 0; j < kAcross; ++j) {
        UNROLL
        for (int e = 0; e < 2; ++e) b[j][e] = b_word(k + e * 4, 8 * j);
      }
      UNROLL
      for (int i = 0; i < kDown; ++i) {
        UNROLL
        for (int j = 0; j < kAcross; ++j) multiply_add(d[i][j], a[i], b[j]);
      }
    }
  }
  // f(row, col, sum) of each element; the sums begin anew.
  template <class F>
  __device__ void give(const F& f) {
    // The compiler must not work out places before the loop that sums up, to keep them throughout.
    int row_of_lane = first_row + group;
    int col_of_lane = first_col + 2 * member;
    asm volatile("" : "+r"(row_of_lane), "+r"(col_of_lane));
    UNROLL
    for (int i = 0; i < kDown; ++i) {
      UNROLL
      for (int j = 0; j < kAcross; ++j) {
        UNROLL
        for (int e = 0; e < 4; ++e) {
          f(row_of_lane + 16 * i + e / 2 * 8, col_of_lane + 8 * j + e % 2, d[i][j][e]);
          d[i][j][e] = 0.0F;
        }
      }
    }
  }
};

template <int kSide, bool kAlongA, bool kAlongB, class Problem>
__global__ void __launch_bounds__(kMmaThreads, kSide == kMmaLargeSide ? 2 : 4)
    mma_product_kernel(Problem p, bool a_aligned, bool b_aligned) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // what is older has no such instructions
  using Word = typename Problem::Element;
  struct alignas(16) Quad {
    Word words[4];
  };
  constexpr int kWordsA = room_of(kSide, kAlongA);
  constexpr int kWordsB = room_of(kSide, kAlongB);
  Tile tile;
  if (!p.find(blockIdx.x, kSide, tile)) return;
  SHARED_ARRAY(Quad, a_quads, [2][kWordsA / 4]);
  SHARED_ARRAY(Quad, b_quads, [2][kWordsB / 4]);
  Word* const a = reinterpret_cast<Word*>(a_quads);
  Word* const b = reinterpret_cast<Word*>(b_quads);
  const auto bring_a = carrier<kSide, kAlongA, Word>(
      [&](int row, std::int64_t k) { return p.a_at(tile, tile.first_row + row, k); }, tile.rows,
      tile.depth, a_aligned);
  const auto bring_b = carrier<kSide, kAlongB, Word>(
      [&](int col, std::int64_t k) { return p.b_at(tile, k, tile.first_col + col); }, tile.cols,
      tile.depth, b_aligned);
  const auto bring_step = [&](std::int64_t first, int half) {
    bring_a.step(first, a + half * kWordsA);
    bring_b.step(first, b + half * kWordsB);
    __pipeline_commit();
  };

  WarpSums<kSide> sums;
  int half = 0;
  bring_step(0, half);
  for (std::int64_t first = 0; first == 0 || first < tile.depth; first += kMmaStep) {
    __pipeline_wait_prior(0);
    __syncthreads();  // this step is there, and the one before has been read
    const std::int64_t next = first + kMmaStep;
    if (next < tile.depth) bring_step(next, 1 - half);
    sums.template add<kAlongA, kAlongB>(a + half * kWordsA, b + half * kWordsB);
    half = 1 - half;
    if (next % kPiece != 0 && next < tile.depth) continue;
    sums.give([&](int row, int col, float value) {
      if (row >= tile.rows || col >= tile.cols) return;
      p.put(tile, tile.first_row + row, tile.first_col + col, value, next > kPiece);
    });
  }
#endif
}

template <bool kAlongA, bool kAlongB, class Problem>
void run_mma_product(const char* operation, const Problem& p) {
  if (p.fits(kMmaSmallSide)) {
    run<mma_product_kernel<kMmaLargeSide, kAlongA, kAlongB, Problem>>(
        operation, p.blocks(kMmaLargeSide), kMmaThreads, p, p.a_aligned(), p.b_aligned());
  } else {
    run<mma_product_kernel<kMmaSmallSide, kAlongA, kAlongB, Problem>>(
        operation, p.blocks(kMmaSmallSide), kMmaThreads, p, p.a_aligned(), p.b_aligned());
  }
}

}  // namespace moegrad::cuda
