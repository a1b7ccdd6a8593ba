#include "cuda/emulator/mma.h"

#include <cmath>

#include "cuda/emulator/block.h"

namespace cuda_emulator {
namespace {

// A lane's part of a product, on its stack while it waits for the others.
template <class D, class T, int kD, int kA, int kB>
struct Part {
  D (&d)[kD];
  const T (&a)[kA];
  const T (&b)[kB];
};
using Tf32 = Part<float, float, 4, 4, 2>;
using Bf16 = Part<float, std::uint32_t, 4, 4, 2>;
using F64 = Part<double, double, 2, 1, 1>;

template <class P>
const P& part(const Lanes& lanes, int lane) {
  return *reinterpret_cast<const P*>(lanes[static_cast<std::size_t>(lane)]);
}

float without_tail(float x) {
  return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, x) & ~0x1fffU);
}

// d += a b of 16 rows, 8 columns; a(row, k) and b(k, column) are what lanes hold.
template <class P, int kK, class A, class B>
void multiply(const Lanes& lanes, A&& a, B&& b) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i / 2) * 8, column = lane % 4 * 2 + i % 2;
      float& d = part<P>(lanes, lane).d[i];
      double sum = d;
      for (int k = 0; k < kK; ++k) sum += double{a(row, k)} * double{b(k, column)};
      d = static_cast<float>(sum);
    }
  }
}

void multiply_tf32(const Lanes& lanes) {
  multiply<Tf32, 8>(
      lanes,
      [&](int row, int k) {
        return without_tail(part<Tf32>(lanes, row % 8 * 4 + k % 4).a[row / 8 + k / 4 * 2]);
      },
      [&](int k, int column) {
        return without_tail(part<Tf32>(lanes, column * 4 + k % 4).b[k / 4]);
      });
}

float half(std::uint32_t pair, int which) {
  return static_cast<float>(bf16::of_bits(static_cast<std::uint16_t>(pair >> (16 * which))));
}

void multiply_bf16(const Lanes& lanes) {
  multiply<Bf16, 16>(
      lanes,
      [&](int row, int k) {
        return half(part<Bf16>(lanes, row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2], k % 2);
      },
      [&](int k, int column) {
        return half(part<Bf16>(lanes, column * 4 + k % 8 / 2).b[k / 8], k % 2);
      });
}

void multiply_f64(const Lanes& lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2; ++i) {
      const int row = lane / 4, column = lane % 4 * 2 + i;
      double& d = part<F64>(lanes, lane).d[i];
      for (int k = 0; k < 4; ++k) {
        d = std::fma(part<F64>(lanes, row * 4 + k).a[0], part<F64>(lanes, column * 4 + k).b[0], d);
      }
    }
  }
}

template <class P>
void exchange_parts(const char* name, const P& mine, const Here& here,
                    void (*together)(const Lanes&)) {
  exchange(name, 0xffffffffU, reinterpret_cast<std::uintptr_t>(&mine), here, together);
}

}  // namespace

float to_tf32(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return __builtin_bit_cast(float, 0x7fffffffU);
  return __builtin_bit_cast(float, (bits + 0x1000U) & ~0x1fffU);
}

void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2], Here here) {
  const Inside inside;
  exchange_parts("mma_tf32", Tf32{d, a, b}, here, multiply_tf32);
}
void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Here here) {
  const Inside inside;
  exchange_parts("mma_bf16", Bf16{d, a, b}, here, multiply_bf16);
}
void mma_f64(double (&d)[2], double a, double b, Here here) {
  const Inside inside;
  const double as[] = {a}, bs[] = {b};
  exchange_parts("mma_f64", F64{d, as, bs}, here, multiply_f64);
}

}  // namespace cuda_emulator
