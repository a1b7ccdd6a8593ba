#pragma once

#include <cstdint>

#include "cuda/emulator/bf16.h"

#ifndef __CUDACC__
#include "cuda/emulator/threads.h"
#endif

// Products of small matrices by a whole warp, on tensor cores: d += a b, with a [m, k] by rows, b
// [k, n] by columns. Each lane holds a part; with g = lane / 4 and t = lane % 4:
//
//   mma_tf32  m16 n8 k8    a[0..3]  (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4)
//                          b[0..1]  (t, g) (t + 4, g)
//   mma_bf16  m16 n8 k16   a[0..3]  the pairs of columns 2t, 2t + 1 of row g, then of row g + 8, then
//                                   columns 2t + 8, 2t + 9 of row g, then of row g + 8
//                          b[0..1]  the pairs of rows 2t, 2t + 1 of column g, then rows 2t + 8, 2t + 9
//   both                   d[0..3]  (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
//   mma_f64   m8 n8 k4     a (g, t)   b (t, g)   d[0..1] (g, 2t) (g, 2t + 1)
//
// Of tf32 operands the lower 13 bits are not looked at: to_tf32() rounds first. In which order, and
// with which rounding, a device adds the products is not specified and differs between devices; the
// emulator adds those of tf32 and bf16, which are exact, in f64 and rounds once to f32; those of f64
// by fma in the order of k. Compare with a device to within rounding, not bit by bit.
namespace cuda_emulator {

#ifdef __CUDACC__

// cvt.rna: to 10 bits behind the point, halves away from zero.
__device__ __forceinline__ float to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_f64(double (&d)[2], double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d[0]), "+d"(d[1])
               : "d"(a), "d"(b));
}

#else

float to_tf32(float x);
void mma_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2], Here here = Here::current());
void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              Here here = Here::current());
void mma_f64(double (&d)[2], double a, double b, Here here = Here::current());

#endif

}  // namespace cuda_emulator
