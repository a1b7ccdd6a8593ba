#pragma once

#include <cmath>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "tensor/cpu/math.h"

// What the functors of unary_functors.h and binary_functors.h are made of.

#ifdef __CUDACC__
#define MOEGRAD_HD __host__ __device__ inline
#else
#define MOEGRAD_HD [[gnu::always_inline]] inline  // a call would keep loops from becoming vectors
#endif

namespace moegrad {

// The door to <cmath> for functors: the same functions, but on the host those of cpu_math.h for
// float and double.
namespace math {

#ifdef __CUDA_ARCH__
template <class T>
inline constexpr bool kOfHost = false;
#else
template <class T>
inline constexpr bool kOfHost = std::is_same_v<T, float> || std::is_same_v<T, double>;
#endif

#define MOEGRAD_DOOR(NAME)      \
  template <class T>            \
  MOEGRAD_HD T NAME(T x) {      \
    if constexpr (kOfHost<T>) { \
      return cpu::NAME(x);      \
    } else {                    \
      return std::NAME(x);      \
    }                           \
  }
MOEGRAD_DOOR(exp)
MOEGRAD_DOOR(log)
MOEGRAD_DOOR(log1p)
MOEGRAD_DOOR(tanh)
MOEGRAD_DOOR(erf)
#undef MOEGRAD_DOOR

}  // namespace math

template <class... Types>
struct TypeList {
  static constexpr std::size_t size = sizeof...(Types);
  // The place of a type in the list.
  template <class T>
  static constexpr int index_of() {
    int index = 0;
    const bool found = ((std::is_same_v<T, Types> ? true : (++index, false)) || ...);
    return found ? index : -1;
  }
};

// What a backward pass reads of the forward pass, besides the incoming adjoint.
enum class Needs { nothing, inputs, output, inputs_and_output };

// The numbers of one call, such as the bounds of clamp.
struct Scalars {
  double a = 0.0;
  double b = 0.0;
};

// What f costs, counted in elements of cheap work (relu): kCost where a functor has one, else 1.
template <class F>
constexpr int cost_of() {
  if constexpr (requires { F::kCost; }) {
    return F::kCost;
  } else {
    return 1;
  }
}

}  // namespace moegrad
