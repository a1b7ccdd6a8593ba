#pragma once

#include <cmath>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "tensor/math.h"

// What the functors of unary_functors.h and binary_functors.h are made of.

namespace moegrad {

// Of other numbers, such as complex ones.
namespace math {
#define MOEGRAD_OF_OTHERS(NAME) \
  template <class T>            \
  requires(!Own<T>) T NAME(T x) { return std::NAME(x); }
MOEGRAD_OF_OTHERS(exp)
MOEGRAD_OF_OTHERS(log)
MOEGRAD_OF_OTHERS(log1p)
MOEGRAD_OF_OTHERS(tanh)
MOEGRAD_OF_OTHERS(erf)
#undef MOEGRAD_OF_OTHERS
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
