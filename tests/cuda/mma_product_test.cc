// The kernel of tensor cores itself: banks of shared memory, the order of its sums, and what happens
// without its barriers.
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "cuda/emulator/emulator.h"
#include "cuda/launch.h"
#include "tensor/kernels.h"
#include "tensor/rng.h"

// Below, the kernel waits for its copies, and its threads for one another, where the problem says so.
#define __pipeline_wait_prior(groups) \
  (p.waits ? ::cuda_emulator::__pipeline_wait_prior(groups) : void())
#define __syncthreads() (p.meets ? ::cuda_emulator::__syncthreads() : void())
#include "cuda/mma_product.h"

using namespace moegrad;
using cuda::kMmaStep;
using cuda::kMmaWords;
using cuda::Pair;
using cuda::Tile;
using cuda_emulator::bf16;

namespace {

// to [rows, cols] = a [rows, depth] b [cols, depth]^T
template <class Word>
struct Plain {
  using Element = Word;
  const Word* x;
  const Word* y;
  std::int64_t rows, cols, depth;
  float* to;
  bool waits = true, meets = true;

  std::int64_t blocks(int side) const {
    return cuda::pieces_of(rows, side) * cuda::pieces_of(cols, side);
  }
  bool fits(std::int64_t side) const { return rows > side && cols > side; }
  bool a_aligned() const { return depth % 4 == 0; }
  bool b_aligned() const { return depth % 4 == 0; }
  bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, rows, cols, tile);
    tile.depth = depth;
    return true;
  }
  const Word* a_at(const Tile&, std::int64_t row, std::int64_t k) const {
    return x + row * depth + k;
  }
  const Word* b_at(const Tile&, std::int64_t k, std::int64_t col) const {
    return y + col * depth + k;
  }
  void put(const Tile&, std::int64_t row, std::int64_t col, float value, bool more) const {
    float& z = to[row * cols + col];
    z = more ? z + value : value;
  }
};

// Words of the device: f32 that TF32 holds, or pairs of bf16.
template <class Word>
std::vector<Word> random_words(std::int64_t count, std::uint64_t seed) {
  const Rng rng{seed, 5};
  std::vector<Word> all;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::uint64_t>(2 * i);
    const bf16 low(static_cast<float>(rng.uniform(at)) - 0.5F);
    const bf16 high(static_cast<float>(rng.uniform(at + 1)) - 0.5F);
    if constexpr (std::is_same_v<Word, Pair>) {
      all.push_back(cuda_emulator::pair(low, high));
    } else {
      all.push_back(static_cast<float>(low));
    }
  }
  return all;
}
template <class Word>
Tensor there(const std::vector<Word>& words) {
  std::vector<std::int32_t> bits(words.size());
  std::memcpy(bits.data(), words.data(), words.size() * sizeof(Word));
  return Tensor::of({static_cast<std::int64_t>(bits.size())}, bits).to(Device::cuda);
}

template <class Word>
struct Given {
  Given(std::int64_t m, std::int64_t n, std::int64_t words)
      : rows(m),
        cols(n),
        depth(words),
        a(random_words<Word>(m * words, 1)),
        b(random_words<Word>(n * words, 2)),
        a_there(there(a)),
        b_there(there(b)) {}
  Tensor run(bool waits = true, bool meets = true) const {
    const Tensor out = Tensor::empty({rows, cols}, DType::f32, Device::cuda);
    const Plain<Word> p = {reinterpret_cast<const Word*>(cuda::in<std::int32_t>(a_there)),
                           reinterpret_cast<const Word*>(cuda::in<std::int32_t>(b_there)),
                           rows,
                           cols,
                           depth,
                           cuda::out<float>(out),
                           waits,
                           meets};
    cuda::run_mma_product<true, true>("test", p);
    return out.to(Device::cpu);
  }
  std::int64_t rows, cols, depth;
  std::vector<Word> a, b;
  Tensor a_there, b_there;
};

double product(float a, float b) { return double{a} * double{b}; }
void add(double& sum, float a, float b) { sum += product(a, b); }
void add(double& sum, Pair a, Pair b) {
  for (const int shift : {0, 16}) {
    const auto half = [&](Pair x) {
      return static_cast<float>(bf16::of_bits(static_cast<std::uint16_t>(x >> shift)));
    };
    sum += product(half(a), half(b));
  }
}

// What the comment of the kernel promises: the words of an instruction are added in f64, as the
// emulator does, and rounded once; pieces are added to one another.
template <class Word>
float expected(const Given<Word>& g, std::int64_t row, std::int64_t col) {
  float total = 0.0F;
  for (std::int64_t piece = 0; piece < g.depth; piece += cuda::kPiece) {
    float sum = 0.0F;
    for (std::int64_t k = piece; k < g.depth && k < piece + cuda::kPiece; k += kMmaWords) {
      double next = sum;
      for (std::int64_t i = k; i < k + kMmaWords && i < g.depth; ++i) {
        add(next, g.a[static_cast<std::size_t>(row * g.depth + i)],
            g.b[static_cast<std::size_t>(col * g.depth + i)]);
      }
      sum = static_cast<float>(next);
    }
    total = piece == 0 ? sum : total + sum;
  }
  return total;
}

template <class Word>
void check_bits() {
  struct Sizes {
    std::int64_t rows, cols, depth;
  };
  for (const Sizes s : {Sizes{3, 5, 1}, {70, 9, 35}, {66, 130, 20}, {5, 2, 2060}}) {
    CAPTURE(s.depth);
    const Given<Word> given(s.rows, s.cols, s.depth);
    const Tensor got = given.run();
    for (std::int64_t i = 0; i < got.numel(); ++i) {
      CHECK(got.data<float>()[i] == expected(given, i / s.cols, i % s.cols));
    }
    for (std::uint64_t schedule = 1; schedule <= 10; ++schedule) {
      const cuda_emulator::With with({.schedule = schedule});
      CHECK(given.run().same_bits(got));
    }
  }
}

// How many of these words lie in the fullest bank.
std::size_t fullest_bank(const std::vector<int>& places) {
  std::vector<std::set<int>> banks(32);
  for (const int place : places) banks[static_cast<std::size_t>(place % 32)].insert(place);
  std::size_t most = 0;
  for (const auto& bank : banks) most = std::max(most, bank.size());
  return most;
}

template <int kSide, bool kAlong>
void check_banks() {
  CAPTURE(kSide);
  CAPTURE(kAlong);
  const auto place = [](int line, int k) { return cuda::place_of<kSide, kAlong>(line, k); };
  std::set<int> all;
  for (int line = 0; line < kSide; ++line) {
    for (int k = 0; k < kMmaStep; ++k) all.insert(place(line, k));
  }
  CHECK(all.size() == std::size_t{kSide} * kMmaStep);
  CHECK(*all.rbegin() < cuda::room_of(kSide, kAlong));
  // What a warp reads for an instruction: lines first + g, words k + t.
  for (int first = 0; first < kSide; first += 8) {
    for (int k = 0; k < kMmaStep; k += 4) {
      std::vector<int> places;
      for (int lane = 0; lane < 32; ++lane) places.push_back(place(first + lane / 4, k + lane % 4));
      CHECK(fullest_bank(places) == 1);
    }
  }
  // What eight of its lanes write at once: 16 bytes each, that begin where they must.
  for (int begin = 0; begin < kSide * kMmaStep / 4; begin += 8) {
    std::vector<int> places;
    for (int number = begin; number < begin + 8; ++number) {
      const int line = kAlong ? number / (kMmaStep / 4) : number % (kSide / 4) * 4;
      const int k = kAlong ? number % (kMmaStep / 4) * 4 : number / (kSide / 4);
      CHECK(place(line, k) % 4 == 0);
      for (int i = 0; i < 4; ++i) {
        CHECK(place(line + (kAlong ? 0 : i), k + (kAlong ? i : 0)) == place(line, k) + i);
        places.push_back(place(line, k) + i);
      }
    }
    CHECK(fullest_bank(places) == 1);
  }
}

std::string error_of(bool waits, bool meets) {
  const cuda_emulator::With with({.schedule = 3});
  try {
    (void)Given<float>(20, 20, 40).run(waits, meets);
  } catch (const cuda_emulator::Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE(
    "mma product: no two lanes of a warp read, and no eight write, different words of a bank") {
  check_banks<128, true>();
  check_banks<128, false>();
  check_banks<64, true>();
  check_banks<64, false>();
}

TEST_CASE("mma product: a sum has the order that is promised, to the bit, whatever the schedule") {
  check_bits<float>();
  check_bits<Pair>();
}

TEST_CASE("mma product: without its wait or its barrier it is found out") {
  CHECK(error_of(true, true) == "");
  const std::string no_wait = error_of(false, true);
  CAPTURE(no_wait);
  CHECK(no_wait.find("__pipeline_memcpy_async has yet to bring") != std::string::npos);
  const std::string no_barrier = error_of(true, false);
  CAPTURE(no_barrier);
  CHECK(no_barrier.find("put a __syncthreads() between") != std::string::npos);
}
