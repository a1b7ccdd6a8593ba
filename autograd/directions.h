#pragma once

#include <cmath>
#include <vector>

#include "autograd/differences.h"
#include "tensor/rng.h"
#include "tensor/tensor.h"

// What the checks by differences move, and along what.
namespace moegrad {

// <a, b> over the places where a is not zero: b may be infinite elsewhere.
double dot(const Tensor& a, const Tensor& b);
// Of the absolute values of the terms.
double dot_of_sizes(const Tensor& a, const Tensor& b);

// The largest absolute value.
double largest_of(const Tensor& x);

// The root of the sum of their squares, of those that are finite; an element of b counts as
// `at_least`.
double norm_of_product(const Tensor& a, const Tensor& b, double at_least = 0.0);

// x + h u, as new storage.
Tensor moved(const Tensor& x, double h, const Tensor& u);

// By what an element is moved: its own size, and 1 for small ones, which may be near 0 by chance.
inline double scale_of(double x) { return std::fmax(1.0, std::abs(x)); }
// The steps of differences in an element of this value.
Steps steps_at(double x);
// Normal, each element times its scale.
Tensor random_direction(const Tensor& x, Rng& rng);

// For each output the number of its class of size, 0 for the largest; -1 for an infinite one. Its
// size is that of its value or of its slope, whichever is larger.
constexpr int kMostClasses = 16;
std::vector<int> classes_of(const Tensor& y, const std::vector<double>& slope);

}  // namespace moegrad
