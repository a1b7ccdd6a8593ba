#pragma once

#include <array>
#include <bit>
#include <cmath>

#include "tensor/maths.h"
#include "tests/kernels/kernel_checks.h"

// What the tests of products with TF32 and bf16 share.
namespace moegrad::test {

// A test case for the device that knows them.
#define MATHS_TEST(name) \
  MOEGRAD_KERNEL_TEST(DOCTEST_ANONYMOUS(maths_test_), name, on.device == Device::cuda)

inline const std::vector<Maths> kRounding = {Maths::tf32, Maths::bf16};

// The largest relative error of a rounded operand.
inline double unit(Maths maths) { return maths == Maths::tf32 ? 0x1p-11 : 0x1p-8; }

inline float rounded(float x, Maths maths) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return maths == Maths::tf32
             ? std::bit_cast<float>((bits + 0x1000U) & ~0x1fffU)
             : std::bit_cast<float>((bits + 0x7fffU + (bits >> 16 & 1U)) & ~0xffffU);
}
// To TF32, half-way cases to even: cuBLAS does so, mma with cvt.rna rounds them away from zero.
inline float rounded_to_even(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return std::bit_cast<float>((bits + 0xfffU + (bits >> 13 & 1U)) & ~0x1fffU);
}
template <class F>
Tensor each(const Tensor& x, F f) {
  const Tensor y = x.clone();
  for (std::int64_t i = 0; i < y.numel(); ++i) y.write<float>()[i] = f(x.data<float>()[i]);
  return y;
}
inline Tensor rounded(const Tensor& x, Maths maths) {
  return each(x, [maths](float value) { return rounded(value, maths); });
}

// A sum of products, and that of their sizes; where other values are as right, those too.
struct Sum {
  double value = 0.0, size = 0.0;
  std::array<double, 2> others = {std::nan(""), std::nan("")};
  void add(double a, double b) {
    value += a * b;
    size += std::abs(a * b);
    for (double& other : others) other += a * b;
  }
};

// That of cuda/mma_product.h for sums of `depth` products, relative to the sum of their sizes; and
// one rounding more of what is added to the sum.
inline double sum_error(Maths maths, std::int64_t depth) {
  const double words = static_cast<double>(maths == Maths::tf32 ? depth : (depth + 1) / 2);
  return (std::fmin(words, 1024) / 8 + words / 1024 + 2) * 0x1p-23;
}

// |got - want| <= bound (size of the sum), element by element.
inline void check_sums(const Tensor& got, const std::vector<Sum>& want, double bound) {
  const Values values = got.to_vector();
  REQUIRE(values.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    const auto near = [&](double value) {
      return std::abs(values[i] - value) <= bound * want[i].size;
    };
    if (near(want[i].value) || near(want[i].others[0]) || near(want[i].others[1])) continue;
    CAPTURE(i);
    CAPTURE(want[i].size);
    CAPTURE(bound);
    CHECK(values[i] == want[i].value);
    return;
  }
}

}  // namespace moegrad::test
