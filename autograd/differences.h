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
  // Of what operations may compute with inside: 1 where their results are smaller, as in
  // log(1 + exp(-20)). Nothing: 1.
  std::vector<double> inner = {};
};
// Nothing where h leaves the domain or the cell, or where a value is not finite.
using Curve = std::function<std::optional<Sample>(double h)>;

// The steps h, h / factor, h / factor^2, ...; the factor is not 2, so that a function with a period
// of its own does not meet all steps alike.
struct Steps {
  double first = 0.02;
  double factor = 1.7;
  double smallest = 1e-9;
  double least = 1e-14;  // where too few of the larger steps have a value
  // The distance of the derivative from another number, of which the search is to be certain, and of
  // no more. Rounding within the function that could make it so large is looked for even where
  // nothing hints at it.
  std::optional<double> distance = {};
};
// The same search by other steps.
Steps others_than(const Steps& steps, double distance = 0.0);

// The rounding of a difference over h, in units of noise / h.
constexpr double kNoises = 4.0;

// A derivative at 0, with what is known of its error; one number for each component.
struct Derivative {
  std::vector<double> value;
  std::vector<double> error;     // estimated, from neighbours in the tableau
  std::vector<double> rounding;  // of the differences
  std::vector<double> inner;     // the same, of the sizes in Sample::inner
  std::vector<double> step;      // that each value came from
  // What rounding within the function makes of it, where that was looked for; part of `rounding`.
  std::vector<double> noise;
  std::vector<bool> jumps;  // the function jumps by more than rounding can, near 0
  bool found = false;       // false: no step gave a value on both sides
};

// Central differences with Ridders' extrapolation (Ridders, Advances in Engineering Software 4,
// 1982). Steps without a value are left out. Of the tableau's entries the one with the smallest
// relative error is taken. Then much smaller steps are looked at: where they contradict it, more
// than the rounding there explains, the search goes on from them; what stays contradicted, and a
// bend of the function at 0 that does not vanish with h, is part of the error. Rounding within
// operations, of which only the sizes in Sample::inner are known, is told from a shape by its
// jumps: a shape has none.
Derivative derivative_of(const Curve& curve, std::size_t components, const Steps& steps = {});

// The same for a scalar function, whose terms are of the size `size`.
Derivative derivative_of(const std::function<std::optional<double>(double)>& f,
                         const Steps& steps = {}, double size = 1.0);

}  // namespace moegrad
