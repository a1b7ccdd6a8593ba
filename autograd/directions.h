#pragma once

#include <cmath>

#include "autograd/differences.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

// What the checks by differences move, and along what.
namespace moegrad {

// <a, b> over the places where a is not zero: b may be infinite elsewhere.
double dot(const Tensor& a, const Tensor& b);
// Of the absolute values of the terms.
double dot_of_sizes(const Tensor& a, const Tensor& b);

// x + h u, as new storage.
Tensor moved(const Tensor& x, double h, const Tensor& u);

// By what an element is moved: its own size, and 1 for small ones, which may be near 0 by chance.
inline double scale_of(double x) { return std::fmax(1.0, std::abs(x)); }
// The steps of differences in an element of this value.
Steps steps_at(double x);
// Normal, each element times its scale.
Tensor random_direction(const Tensor& x, Rng& rng);

}  // namespace moegrad
