// Finite differences of every parameter of a model.
#pragma once

#include <doctest/doctest.h>

#include "train/model.h"

namespace moegrad::test {

// The gradient that `total` (a scalar of a tape) has at an element in the middle of each trained
// parameter, f64, and its central difference. Routers of hard choices: the step is small beside
// the gaps between their scores.
template <class F>
void check_differences(Parameters& parameters, const F& total) {
  Tape tape;
  const Gradients g = tape.backward(total(tape));
  for (Parameter& parameter : parameters) {
    if (!parameter.trained) continue;
    const std::int64_t i = parameter.value.numel() / 2;
    double& element = parameter.value.write_values<double>()[static_cast<std::size_t>(i)];
    const double h = 1e-6;
    const double middle = element;
    const auto at = [&](double value) {
      element = value;
      Tape t;
      return total(t).value().item();
    };
    const double difference = (at(middle + h) - at(middle - h)) / (2 * h);
    element = middle;
    CHECK_MESSAGE(g[parameter].at(i) == doctest::Approx(difference).epsilon(1e-4).scale(1e-2),
                  parameter.name);
  }
}

}  // namespace moegrad::test
