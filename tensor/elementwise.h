#pragma once

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
// A new functor goes into the list at the end of its file; nothing else has to change.
