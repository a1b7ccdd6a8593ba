// Products by a warp, beside plain ones.
#include <cmath>
#include <random>

#include "cuda/emulator/mma.h"
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

// a [m, k] by rows, b [k, n] by rows, d [m, n] by rows.
__global__ void tf32(const float* a, const float* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const float a_part[] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4],
                          a[(g + 8) * 8 + t + 4]};
  const float b_part[] = {b[t * 8 + g], b[(t + 4) * 8 + g]};
  float d_part[4];
  for (int i = 0; i < 4; ++i) d_part[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_tf32(d_part, a_part, b_part);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d_part[i];
}

__global__ void bf(const bf16* a, const bf16* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  std::uint32_t a_part[4], b_part[2];
  for (int i = 0; i < 4; ++i) {
    const bf16* const at = &a[(g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8];
    a_part[i] = pair(at[0], at[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const int k = 2 * t + 8 * i;
    b_part[i] = pair(b[k * 8 + g], b[(k + 1) * 8 + g]);
  }
  float d_part[4];
  for (int i = 0; i < 4; ++i) d_part[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_bf16(d_part, a_part, b_part);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d_part[i];
}

__global__ void f64(const double* a, const double* b, double* d) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  double d_part[] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1]};
  mma_f64(d_part, a[g * 4 + t], b[t * 8 + g]);
  d[g * 8 + 2 * t] = d_part[0];
  d[g * 8 + 2 * t + 1] = d_part[1];
}

template <bool kAll>
__global__ void some_lanes(double* d) {
  double part[] = {0, 0};
  if (kAll || threadIdx.x < 16) mma_f64(part, 1, 1);
  d[threadIdx.x] = part[0];
}

struct Numbers {
  std::mt19937 random{5};
  std::vector<double> operator()(std::size_t n) {
    std::vector<double> out(n);
    for (double& x : out) x = std::normal_distribution<double>()(random);
    return out;
  }
};

template <class T>
std::vector<T> as(const std::vector<double>& values) {
  std::vector<T> out;
  for (const double x : values) out.push_back(T(static_cast<float>(x)));
  return out;
}
template <>
std::vector<double> as<double>(const std::vector<double>& values) {
  return values;
}
double value(float x) { return x; }
double value(double x) { return x; }
double value(bf16 x) { return static_cast<float>(x); }

// The largest error of the kernel's product over that of |a| |b| + |d|, in units of eps.
template <auto kKernel, int kM, int kK, class T, class D>
double error(double eps, float (*rounded)(float) = nullptr) {
  Numbers numbers;
  double worst = 0;
  over_schedules([&](std::uint64_t) {
    std::vector<T> a = as<T>(numbers(kM * kK)), b = as<T>(numbers(kK * 8));
    const std::vector<D> d = as<D>(numbers(kM * 8));
    if constexpr (std::is_same_v<T, float>) {
      for (float& x : a) x = rounded(x);
      for (float& x : b) x = rounded(x);
    }
    const Array<T> a_there(a), b_there(b);
    const Array<D> d_there(d);
    CHECK(error_of([&] { launch<kKernel>({1, 32}, a_there, b_there, d_there); }) == "");
    const std::vector<D> got = d_there.values();
    for (int i = 0; i < kM; ++i) {
      for (int j = 0; j < 8; ++j) {
        const auto at = static_cast<std::size_t>(i * 8 + j);
        double sum = d[at], size = std::abs(sum);
        for (int k = 0; k < kK; ++k) {
          const double product = value(a[static_cast<std::size_t>(i * kK + k)]) *
                                 value(b[static_cast<std::size_t>(k * 8 + j)]);
          sum += product;
          size += std::abs(product);
        }
        worst = std::max(worst, std::abs(got[at] - sum) / (size * eps));
      }
    }
  });
  return worst;
}

}  // namespace

TEST_CASE("products of a warp are products") {
  const double f32 = std::ldexp(1.0, -24), f64_eps = std::ldexp(1.0, -53);
  CHECK((error<tf32, 16, 8, float, float>(f32, to_tf32)) <= 1);
  CHECK((error<bf, 16, 16, bf16, float>(f32)) <= 1);
  CHECK((error<f64, 8, 4, double, double>(f64_eps)) <= 4);
}

TEST_CASE("of tf32 operands the lower bits are not looked at") {
  std::vector<float> a(128, 0), b(64, 0);
  a[0] = 1 + 1023.0F / 1024 + 1.0F / 2048;  // halfway: to_tf32 rounds it up
  b[0] = 1;
  for (const bool rounds : {false, true}) {
    if (rounds) a[0] = to_tf32(a[0]);
    const Array<float> d(std::vector<float>(128, 0));
    launch<tf32>({1, 32}, Array<float>(a), Array<float>(b), d);
    CHECK(d.values()[0] == (rounds ? 2.0F : 1 + 1023.0F / 1024));
  }
}

TEST_CASE("all lanes multiply together") {
  const Array<double> d(std::size_t{32});
  check_passes([&] { launch<some_lanes<true>>({1, 32}, d); });
  check_caught(
      [&] {
        launch<some_lanes<false>>({1, 32}, d);
      },
      {"16 wait at mma_f64 (mma_test.cu:", "16 returned before it"});
}

// --- rounding

TEST_CASE("cvt.rna: to 10 bits, halves away from zero") {
  const float step = std::ldexp(1.0F, -10);
  CHECK(to_tf32(1) == 1);
  CHECK(to_tf32(1 + step) == 1 + step);
  CHECK(to_tf32(1 + step / 2) == 1 + step);
  CHECK(to_tf32(1 + step * 0.49F) == 1);
  CHECK(to_tf32(-(1 + step / 2)) == -(1 + step));
  CHECK(to_tf32(1 + 1.5F * step) == 1 + 2 * step);
  CHECK(std::isinf(to_tf32(3.4028234e38F)));
  CHECK(std::isinf(to_tf32(INFINITY)));
  CHECK(std::isnan(to_tf32(NAN)));
  CHECK(std::signbit(to_tf32(-0.0F)));
}

TEST_CASE("bf16: to the nearest, halves to even") {
  const auto there = [](float x) { return static_cast<float>(bf16(x)); };
  const float step = std::ldexp(1.0F, -7);
  CHECK(there(1 + step) == 1 + step);
  CHECK(there(1 + step / 2) == 1);
  CHECK(there(1 + 1.5F * step) == 1 + 2 * step);
  CHECK(there(1 + step * 0.51F) == 1 + step);
  CHECK(there(-(1 + step / 2)) == -1);
  CHECK(std::isinf(there(3.4e38F)));
  CHECK(bf16(NAN).bits == 0x7fff);
  CHECK(bf16(-0.0F).bits == 0x8000);
  CHECK(there(1e-40F) == std::ldexp(1.0F, -133));  // below the normal numbers
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const bf16 x = bf16::of_bits(static_cast<std::uint16_t>(bits));
    if (!std::isnan(static_cast<float>(x))) REQUIRE(bf16(static_cast<float>(x)).bits == bits);
  }
}
