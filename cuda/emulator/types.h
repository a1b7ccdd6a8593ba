#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

// CUDA's types and words for g++ and clang; nvcc has its own.

#ifdef __SANITIZE_THREAD__
#define CUDA_EMULATOR_OBSERVES 1  // this file is compiled to be observed
#endif

namespace cuda_emulator {

// Where a call stands in the source. std::source_location where the compiler has it.
#if __has_builtin(__builtin_source_location)
using Here = std::source_location;
#else
class Here {
 public:
  static constexpr Here current(const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                                int column = __builtin_COLUMN()) {
    Here here;
    here.file_ = file;
    here.line_ = static_cast<unsigned>(line);
    here.column_ = static_cast<unsigned>(column);
    return here;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0, column_ = 0;
};
#endif

}  // namespace cuda_emulator

#define __global__ __attribute__((noinline))  // a frame of its own, with its lines
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1)  // NOLINT: numbers are sizes
      : x(nx), y(ny), z(nz) {}
  constexpr std::size_t count() const { return std::size_t{x} * y * z; }
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
