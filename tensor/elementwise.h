#pragma once

#include <cstddef>
#include <type_traits>

#include "tensor/binary_functors.h"
#include "tensor/unary_functors.h"

// Element-wise functions and their derivatives, shared by the host and the device.
//
// A functor of one argument has
//   name, summary          for the lists and the documentation
//   kNeeds                 what df reads: the input x, the output y, or nothing
//   f(x, p), df(x, y, p)   value and derivative; p holds the numbers of a call
//   kLow, kHigh            the range that the checks draw x from
//   wall(x, p)             only where f has kinks: x's distance to the nearest one, and
//   side(x, p)             how many of them lie below x
// A functor of two arguments has f(a, b), da(a, b, y), db(a, b, y), the ranges of both, and where f
// has a kink wall(a, b), its signed distance.
// A new functor goes into the list at the end; nothing else has to change.

namespace moegrad {

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

using UnaryFunctors =
    TypeList<functor::Neg, functor::Affine, functor::Exp, functor::Log, functor::Sqrt,
             functor::Square, functor::Tanh, functor::Sigmoid, functor::Relu, functor::GeluTanh,
             functor::GeluErf, functor::Silu, functor::Softplus, functor::Erf, functor::Clamp,
             functor::Abs, functor::Sign, functor::Power, functor::Sin, functor::Cos>;

using BinaryFunctors =
    TypeList<functor::Add, functor::Sub, functor::Mul, functor::Div, functor::SquaredDifference,
             functor::BinaryCrossEntropy, functor::Pow, functor::Minimum, functor::Maximum>;

}  // namespace moegrad
