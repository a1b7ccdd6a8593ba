#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tensor/error.h"

namespace moegrad {

enum class DType : std::uint8_t { f32, f64, i32 };
// guarded: the CPU's kernels on memory that can be touched by kernels and transfers alone, as a
// GPU's; for tests.
enum class Device : std::uint8_t { cpu, guarded, cuda };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::f64 ? 8 : 4; }
constexpr bool is_floating(DType dtype) { return dtype != DType::i32; }
constexpr std::string_view name_of(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::f64 ? "f64" : "i32";
}
constexpr std::string_view name_of(Device device) {
  return device == Device::cpu ? "cpu" : device == Device::guarded ? "guarded" : "cuda";
}

template <class T>
inline constexpr DType dtype_of = T::no_dtype_for_this_type;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::i32;

// Calls f with a value of the C++ type of a floating dtype:
//   with_floating(d, "operation", [&](auto zero) {...})
template <class F>
decltype(auto) with_floating(DType dtype, std::string_view operation, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    default:
      fail(operation, "needs f32 or f64, got {}. Convert the tensor first.", name_of(dtype));
  }
}

// Calls f with a value of the C++ type of any dtype.
template <class F>
void with_any(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  f(std::int32_t{});
}

}  // namespace moegrad
