#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace moegrad {

// The derivative of a vector function at 0 by central differences with Ridders' extrapolation
// (Ridders, Advances in Engineering Software 4, 1982): a value and its own error estimate for each
// component.
struct Derivative {
  std::vector<double> value;
  std::vector<double> error;
  std::vector<double> rounding;  // of the differences, for the step each value came from
  bool inside = false;           // false: no step was found that stays within the cell
};

// f(h) gives the components at h, or nothing where h leaves the cell. `scale` bounds the size of
// the terms that each component is a sum of, for the rounding. `step` is the first h.
inline Derivative ridders(const std::function<std::optional<std::vector<double>>(double)>& f,
                          double step, const std::vector<double>& scale) {
  constexpr int kLevels = 8;
  constexpr double kShrink = 2.0;
  constexpr double kSmallest = 1e-7;
  const std::size_t n = scale.size();
  Derivative best{std::vector<double>(n, 0.0),
                  std::vector<double>(n, std::numeric_limits<double>::infinity()),
                  std::vector<double>(n, 0.0), false};
  std::vector<std::vector<double>> previous;  // the last row of the tableau
  for (double h = step; h > kSmallest && static_cast<int>(previous.size()) < kLevels;
       h /= kShrink) {
    const auto up = f(h);
    const auto down = f(-h);
    if (!up || !down) {
      previous.clear();
      continue;
    }
    std::vector<std::vector<double>> row(1, std::vector<double>(n));
    for (std::size_t c = 0; c < n; ++c) row[0][c] = ((*up)[c] - (*down)[c]) / (2.0 * h);
    if (!best.inside) {
      best.inside = true;
      best.value = row[0];
    }
    double factor = kShrink * kShrink;
    for (std::size_t order = 1; order <= previous.size(); ++order) {
      row.emplace_back(n);
      for (std::size_t c = 0; c < n; ++c) {
        const double lower = previous[order - 1][c];
        row[order][c] = (row[order - 1][c] * factor - lower) / (factor - 1.0);
        // The error counts against both neighbours in the tableau.
        const double error =
            std::fmax(std::abs(row[order][c] - row[order - 1][c]), std::abs(row[order][c] - lower));
        if (error < best.error[c]) {
          best.error[c] = error;
          best.value[c] = row[order][c];
          best.rounding[c] = 8.0 * std::numeric_limits<double>::epsilon() * scale[c] / h;
        }
      }
      factor *= kShrink * kShrink;
    }
    previous = std::move(row);
    bool converged = true;
    for (std::size_t c = 0; c < n; ++c) {
      const double enough = 1e-11 * std::abs(best.value[c]) + best.rounding[c];
      converged = converged && best.error[c] <= enough;
    }
    if (converged && previous.size() > 2) break;
  }
  return best;
}

}  // namespace moegrad
