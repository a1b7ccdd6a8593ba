// Right programs that an observer could take for wrong ones.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

// Each thread has its own part of a word, reads and writes it.
template <class T>
__global__ void in_place(T* x) {
  SHARED_ARRAY(T, s, [64]);
  const unsigned t = threadIdx.x, i = blockIdx.x * 64 + t;
  x[i] = static_cast<T>(x[i] + 1);
  s[t] = x[i];
  s[t] = static_cast<T>(s[t] * 2);
  __syncthreads();
  x[i] = static_cast<T>(x[i] + s[63 - t]);
}

template <class T>
void check_in_place() {
  over_schedules([](std::uint64_t) {
    const Array<T> x(counted<T>(256));
    CHECK(error_of([&] { launch<in_place<T>>({4, 64}, x); }) == "");
    const std::vector<T> values = x.values();
    for (unsigned i = 0; i < 256; ++i) {
      REQUIRE(values[i] ==
              static_cast<T>(i + 1 + 2 * (static_cast<T>(i / 64 * 64 + 63 - i % 64) + 1)));
    }
  });
}

// Two neighbours of one word, one of them in another's way.
template <bool kWrong>
__global__ void neighbours(std::uint16_t* x) {
  const unsigned t = threadIdx.x;
  x[t] = static_cast<std::uint16_t>(t);
  if (kWrong && t == 7) x[6] = 1;
  __syncthreads();
  if (t < 32) reinterpret_cast<unsigned*>(x)[t] += 1;  // whole words again
  __syncthreads();
  if (t > 0) x[t] = static_cast<std::uint16_t>(x[t] + 1);
}

}  // namespace

TEST_CASE("parts of a word belong to different threads and blocks") {
  check_in_place<unsigned char>();
  check_in_place<signed char>();
  check_in_place<std::uint16_t>();
  check_in_place<std::uint32_t>();
  check_in_place<std::uint64_t>();
  check_in_place<double>();
  const auto run = [](auto kernel) {
    const Array<std::uint16_t> x(std::size_t{64});
    kernel(x);
  };
  check_passes([&] { run([](std::uint16_t* x) { launch<neighbours<false>>({1, 64}, x); }); });
  NEEDS_OBSERVER
  check_caught([&] { run([](std::uint16_t* x) {
                       launch<neighbours<true>>({1, 64}, x);
                     }); },
               {"race: it wrote what thread (", "2 bytes at byte 12 of the 128"});
}

// --- vectors and structs

namespace {

struct Padded {
  double value;
  char tag;
  float weight;
};
struct Parameters {
  const float* x;
  float* out;
  int shape[4];
  float scale;
};

__global__ void by_value(Parameters p) {
  const unsigned t = threadIdx.x;
  int size = 1;
  for (const int n : p.shape) size *= n;  // its address is taken: it lies on the stack
  if (static_cast<int>(t) < size) p.out[t] = p.scale * p.x[t];
}
__global__ void padded(Padded* all, const Padded* from) {
  const unsigned t = threadIdx.x;
  all[t].value = from[t].value;
  all[t].tag = 'a';
  all[t].weight = 2;
  Padded one = all[t];
  one.weight += 1;
  all[t] = one;
}
__global__ void vectors(const float* x, float* out, int n) {
  const auto* const from = reinterpret_cast<const float4*>(x);
  auto* const to = reinterpret_cast<float4*>(out);
  SHARED_ARRAY(float4, s, [32]);
  const unsigned t = threadIdx.x;
  for (unsigned i = t; i < static_cast<unsigned>(n) / 4; i += blockDim.x) {
    s[t] = from[i];
    const float4 v = s[t];
    to[i] = make_float4(v.w, v.z, v.y, v.x);
  }
}
// Written by vectors, read by numbers and the reverse, across a barrier.
__global__ void mixed_widths(float* out) {
  SHARED_ARRAY(float, s, [128]);
  const unsigned t = threadIdx.x;
  const auto f = static_cast<float>(t);
  *reinterpret_cast<float4*>(&s[4 * t]) = make_float4(f, f, f, f);
  __syncthreads();
  s[t] += s[127 - t] * 0;
  __syncthreads();
  const double2 d = *reinterpret_cast<const double2*>(&s[4 * t]);
  out[t] = d.x == d.y ? 1.0F : s[4 * t];
}

}  // namespace

TEST_CASE("structs by value, vectors, widths that change") {
  const Array<float> x(counted<float>(128));
  check_passes([&] {
    const Array<float> out(std::size_t{64});
    launch<by_value>({1, 64}, Parameters{x, out, {2, 4, 2, 4}, 0.5F});
    CHECK(out.values()[63] == 31.5F);
  });
  check_passes([&] {
    const Array<Padded> from(std::vector<Padded>(32, {1.5, 'x', 3}));
    const Array<Padded> all(std::size_t{32});
    launch<padded>({1, 32}, all, from);
    CHECK(all.values()[31].weight == 3);
  });
  check_passes([&] {
    const Array<float> out(std::size_t{128});
    launch<vectors>({1, 32}, x, out, 128);
    CHECK(out.values()[5] == 6);
  });
  check_passes([&] {
    const Array<float> out(std::size_t{32});
    launch<mixed_widths>({1, 32}, out);
    CHECK(out.values()[1] == 1);
  });
}

// --- constants and locals

namespace {

constexpr float kWeights[5] = {1, 4, 6, 4, 1};
const char* const kNames[] = {"a", "bc"};

__device__ float horner(const float* coefficients, int n, float x) {
  float y = 0;
  for (int i = n - 1; i >= 0; --i) y = y * x + coefficients[i];
  return y;
}
// noinline: the array is passed by its address.
[[gnu::noinline]] __device__ void sort3(float* v) {
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2 - i; ++j) {
      if (v[j] > v[j + 1]) std::swap(v[j], v[j + 1]);
    }
  }
}
template <class T, int kN>
__global__ void locals(const T* __restrict__ x, T* __restrict__ out, int n) {
  const int t = static_cast<int>(threadIdx.x);
  float v[3] = {static_cast<float>(x[t]), static_cast<float>(x[(t + 1) % n]),
                static_cast<float>(x[(t + 2) % n])};
  sort3(v);
  static constexpr int kShift[] = {0, 1, 2, 1};
  float all[kN];
  for (int i = 0; i < kN; ++i) all[i] = v[kShift[i % 4]];
  const auto sum = [&] {
    float s = 0;
    for (const float a : all) s += a;
    return s;
  };
  out[t] = static_cast<T>(sum() + horner(kWeights, 5, 0.5F) +
                          static_cast<float>(kNames[t % 2][0] - 'a'));
  if (t == 0) out[0] = v[0] > 1e9F ? T{0} : out[0];
}

}  // namespace

TEST_CASE("constants of the program, local arrays, restricted pointers, templates") {
  check_passes([] {
    const Array<float> x(counted<float>(64));
    const Array<float> out(std::size_t{64});
    launch<locals<float, 8>>({1, 64}, x, out, 64);
    CHECK(out.values()[4] == 40 + 5.0625F);
  });
  check_passes([] {
    const Array<double> x(counted<double>(64));
    const Array<double> out(std::size_t{64});
    launch<locals<double, 5>>({1, 64}, x, out, 64);
  });
}

// --- time

namespace {

// One word goes from thread to thread, a barrier between; then from block to block, by launches.
__global__ void handed_on(int* word, int* out) {
  SHARED_ARRAY(int, s, [1]);
  const unsigned t = threadIdx.x;
  for (unsigned i = 0; i < blockDim.x; ++i) {
    if (t == i) s[0] = (i == 0 ? *word : s[0]) + 1;
    __syncthreads();
  }
  if (t == 5) out[0] = s[0];
  if (t == 5) *word = s[0];
}
// Within a warp, a __syncwarp() between; then by others of the block.
__global__ void within_warps(int* out) {
  SHARED_ARRAY(int, s, [64]);
  const unsigned t = threadIdx.x, lane = t % 32, warp = t / 32;
  for (unsigned i = 0; i < 40; ++i) {
    if (lane == i % 32) s[warp] = i == 0 ? 1 : s[warp] + 1;
    __syncwarp();
    if (s[warp] != static_cast<int>(i) + 1) out[t] = -1;
    __syncwarp();
  }
  __syncthreads();
  out[t] = s[(warp + 1) % 2];
}
__global__ void many_rounds(float* x) {
  SHARED_ARRAY(float, s, [32]);
  const unsigned t = threadIdx.x;
  s[t] = 0;
  // More collectives than the epoch of a warp has numbers.
  for (int i = 0; i < 600000; ++i) __syncwarp();
  s[t] += 1;
  __syncwarp();
  x[t] = s[31 - t];
}
// All read what one has written in an earlier launch; each writes its own.
__global__ void broadcast(const float* x, float* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = x[0] + x[blockIdx.x];
}

}  // namespace

TEST_CASE("barriers, collectives and launches are order") {
  check_passes([] {
    const Array<int> word(std::vector<int>{0});
    const Array<int> out(std::size_t{1});
    for (int i = 1; i <= 3; ++i) {
      launch<handed_on>({1, 64}, word, out);
      CHECK(out.values()[0] == 64 * i);
    }
  });
  check_passes([] {
    const Array<int> out(std::size_t{64});
    launch<within_warps>({1, 64}, out);
    CHECK(out.values() == std::vector<int>(64, 40));
  });
  check_passes([] {
    const Array<float> x(counted<float>(8));
    const Array<float> out(std::size_t{8 * 32});
    launch<broadcast>({8, 32}, x, out);
    CHECK(out.values()[33] == 1);
  });
}
TEST_CASE("more collectives than are counted") {
  const Array<float> x(std::size_t{32});
  CHECK(error_of([&] { launch<many_rounds>({1, 32}, x); }) == "");
  CHECK(x.values() == std::vector<float>(32, 1));
}

// Of float, fma rounds once: by way of double the half that 2^-60 decides would go to the even
// number.
namespace {
__global__ void fused(const float* x, float* out) { out[0] = fma(x[0], x[1], x[2]); }
}  // namespace
TEST_CASE("fma of float is rounded once") {
  const Array<float> x(std::vector<float>{24929.0F, 673 * 0x1p-24F, 0x1p-60F});
  const Array<float> out(std::size_t{1});
  check_passes([&] { launch<fused>({1, 1}, x, out); });
  CHECK(out.values()[0] == 1 + 0x1p-23F);  // 24929 673 2^-24 is 1 + 2^-24
}

// A word that several lanes write with one value is a race all the same: the language says so.
namespace {
__global__ void same_value(int* out) { out[0] = 1; }
}  // namespace
TEST_CASE("two writes of one value are two writes") {
  NEEDS_OBSERVER
  const Array<int> out(std::size_t{1});
  check_caught([&] { launch<same_value>({1, 2}, out); }, {"race: it wrote what thread ("});
}
