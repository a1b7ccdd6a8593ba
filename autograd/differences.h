#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moegrad {

// A vector function of one number near 0, as differences see it.
struct Sample {
  double h = 0.0;             // where it was taken: what rounding made of the h asked for
  std::vector<double> value;  // its components
  std::vector<double> size;   // of what each component is computed from, for the rounding
};
// Nothing where h leaves the domain or the cell, or where a value is not finite.
using Curve = std::function<std::optional<Sample>(double h)>;

// The steps h, h / factor, h / factor^2, ...; the factor is not 2, so that a function with a period
// of its own does not meet all steps alike.
struct Steps {
  double first = 0.02;
  double factor = 1.7;
  double smallest = 1e-9;
};

// A derivative at 0, with what is known of its error; one number for each component.
struct Derivative {
  std::vector<double> value;
  std::vector<double> error;     // estimated, from neighbours in the tableau
  std::vector<double> rounding;  // of the differences, at the step each value came from
  bool found = false;            // false: no step gave a value on both sides
};

// Central differences with Ridders' extrapolation (Ridders, Advances in Engineering Software 4,
// 1982). Steps without a value are left out. Of the tableau's entries the one with the smallest
// relative error is taken. Then much smaller steps are looked at: where they contradict it, more
// than the rounding there explains, the search goes on from them; what stays contradicted, and a
// bend of the function at 0 that does not vanish with h, is part of the error.
Derivative derivative_of(const Curve& curve, std::size_t components, const Steps& steps = {});

// The same for a scalar function, whose terms are of the size `size`.
Derivative derivative_of(const std::function<std::optional<double>(double)>& f,
                         const Steps& steps = {}, double size = 1.0);

}  // namespace moegrad
