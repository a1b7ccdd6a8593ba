#include "autograd/differences.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moegrad {
namespace {

constexpr double kRoundingOfDifference = 8.0 * std::numeric_limits<double>::epsilon();
constexpr double kConverged = 1e-11;  // relative
constexpr double kUsable = 1e-6;      // relative: further steps that bring nothing end the search
constexpr double kFurther = 150.0;    // from one of the much smaller steps to the next
constexpr int kMostRows = 48;
constexpr std::size_t kMostOrders = 9;

// The central difference at one step.
struct Quotient {
  std::vector<double> value;
  std::vector<double> rounding;
};

std::optional<Quotient> quotient(const Curve& curve, double h) {
  const std::optional<Sample> up = curve(h);
  if (!up) return std::nullopt;
  const std::optional<Sample> down = curve(-h);
  if (!down) return std::nullopt;
  const double width = up->h - down->h;
  if (!(width > 0.0)) return std::nullopt;
  Quotient q;
  for (std::size_t c = 0; c < up->value.size(); ++c) {
    q.value.push_back((up->value[c] - down->value[c]) / width);
    q.rounding.push_back(kRoundingOfDifference * std::fmax(up->size[c], down->size[c]) /
                         (0.5 * width));
    if (!std::isfinite(q.value.back()) || !std::isfinite(q.rounding.back())) return std::nullopt;
  }
  return q;
}

class Search {
 public:
  Search(const Curve& curve, std::size_t components, const Steps& steps)
      : curve_(curve), steps_(steps) {
    constexpr double infinite = std::numeric_limits<double>::infinity();
    best_.value.assign(components, 0.0);
    best_.error.assign(components, infinite);
    best_.rounding.assign(components, 0.0);
    step_.assign(components, steps.first);
  }

  Derivative run() {
    if (!std::isfinite(steps_.first)) return std::move(best_);
    descend(steps_.first);
    if (best_.found) confirm();
    return std::move(best_);
  }

 private:
  // What an entry of the tableau is judged by: its error in units of what it could be.
  static double score(double value, double error, double rounding) {
    return (error + rounding) /
           std::fmax(std::abs(value) + rounding, std::numeric_limits<double>::denorm_min());
  }

  // From step h on, until all components have converged or steps are too small.
  void descend(double h) {
    std::vector<std::vector<double>> previous;  // the last row of the tableau, by order
    double last = 0.0;
    int stale = 0;
    for (int rows = 0; h >= steps_.smallest && rows < kMostRows; h /= steps_.factor) {
      const std::optional<Quotient> q = quotient(curve_, h);
      if (!q) {
        previous.clear();
        if (rows == 0) h *= steps_.factor / 4.0;  // still far outside
        continue;
      }
      ++rows;
      last = h;
      const bool better = add_row(*q, h, previous);
      stale = better ? 0 : stale + 1;
      if (previous.size() >= 3 && all([&](std::size_t c) {
            return best_.error[c] <= kConverged * std::abs(best_.value[c]) + best_.rounding[c];
          })) {
        break;
      }
      if (stale >= 4 && all([&](std::size_t c) {
            return best_.error[c] <= kUsable * std::abs(best_.value[c]) + best_.rounding[c];
          })) {
        break;
      }
    }
    if (last > 0.0) lowest_ = last;
  }

  // Adds a row to the tableau; true where some component's best entry is in it.
  bool add_row(const Quotient& q, double h, std::vector<std::vector<double>>& previous) {
    const std::size_t n = q.value.size();
    if (!best_.found) {
      best_.found = true;
      best_.value = q.value;
      best_.rounding = q.rounding;
    }
    bool better = false;
    std::vector<std::vector<double>> row = {q.value};
    const double square = steps_.factor * steps_.factor;
    double factor = square;
    for (std::size_t order = 1; order <= std::min(previous.size(), kMostOrders); ++order) {
      row.emplace_back(n);
      for (std::size_t c = 0; c < n; ++c) {
        const double lower = previous[order - 1][c];
        const double value = (row[order - 1][c] * factor - lower) / (factor - 1.0);
        row[order][c] = value;
        // The error counts against both neighbours in the tableau.
        const double error =
            std::fmax(std::abs(value - row[order - 1][c]), std::abs(value - lower));
        if (!std::isfinite(error)) continue;
        if (score(value, error, q.rounding[c]) <
            score(best_.value[c], best_.error[c], best_.rounding[c])) {
          best_.value[c] = value;
          best_.error[c] = error;
          best_.rounding[c] = q.rounding[c];
          step_[c] = h;
          better = true;
        }
      }
      factor *= square;
    }
    previous = std::move(row);
    return better;
  }

  // Looks at much smaller steps: a function may be smooth on the scale of the first ones and have
  // its shape on a smaller one.
  void confirm() {
    for (double h = lowest_ / kFurther; h >= steps_.smallest; h /= kFurther) {
      const std::optional<Quotient> q = quotient(curve_, h);
      if (!q) continue;
      const auto contradicts = [&](std::size_t c, double noise) {
        const double error = 10.0 * best_.error[c] * std::fmax(1.0, step_[c] / h);
        const double allowed =
            1e-5 * std::abs(best_.value[c]) + error + 4.0 * (q->rounding[c] + noise / h);
        return !(std::abs(q->value[c] - best_.value[c]) <= allowed);
      };
      std::vector<std::size_t> contradicted;
      for (std::size_t c = 0; c < q->value.size(); ++c) {
        if (contradicts(c, 0.0) && contradicts(c, noise_of(c))) contradicted.push_back(c);
      }
      if (contradicted.empty()) continue;
      const Derivative before = best_;
      const std::vector<double> steps_before = step_;
      for (const std::size_t c : contradicted) {
        best_.error[c] = std::numeric_limits<double>::infinity();
      }
      descend(h * 10.0);
      for (const std::size_t c : contradicted) {
        const double gap = std::abs(q->value[c] - before.value[c]);
        if (4.0 * best_.error[c] + best_.rounding[c] <= gap) continue;  // it explains the gap
        best_.value[c] = before.value[c];
        best_.error[c] = std::fmax(before.error[c], gap);
        best_.rounding[c] = before.rounding[c];
        step_[c] = steps_before[c];
      }
      h = std::min(h, lowest_);
    }
  }

  // What rounding within the function makes of a component: how far it is from a straight line at
  // steps so small that a smooth function is one.
  double noise_of(std::size_t c) {
    if (noise_.empty()) find_noise();
    return noise_[c];
  }
  void find_noise() {
    noise_.assign(best_.value.size(), 0.0);
    const std::optional<Sample> here = curve_(0.0);
    std::optional<Quotient> widest;
    for (const double multiple : {10.0, 7.6, 5.5, 3.8, 2.7, 1.9, 1.3, 1.0}) {
      const double h = steps_.smallest * multiple;
      const std::optional<Sample> up = curve_(h);
      const std::optional<Sample> down = curve_(-h);
      const std::optional<Quotient> q = quotient(curve_, h);
      if (!here || !up || !down || !q) continue;
      if (!widest) widest = q;
      for (std::size_t i = 0; i < noise_.size(); ++i) {
        const double bend = up->value[i] - 2.0 * here->value[i] + down->value[i];
        const double turn = (q->value[i] - widest->value[i]) * h;
        noise_[i] = std::fmax(noise_[i], std::fmax(std::abs(bend), std::abs(turn)));
      }
    }
  }

  template <class Holds>
  bool all(Holds holds) const {
    for (std::size_t c = 0; c < best_.value.size(); ++c) {
      if (!holds(c)) return false;
    }
    return true;
  }

  const Curve& curve_;
  const Steps steps_;
  Derivative best_;
  std::vector<double> noise_;  // of each component, once it was asked for
  std::vector<double> step_;   // that each best entry came from
  double lowest_ = 0.0;        // the last step of a descent
};

}  // namespace

Derivative derivative_of(const Curve& curve, std::size_t components, const Steps& steps) {
  return Search(curve, components, steps).run();
}

Derivative derivative_of(const std::function<std::optional<double>(double)>& f, const Steps& steps,
                         double size) {
  const Curve curve = [&](double h) -> std::optional<Sample> {
    const std::optional<double> value = f(h);
    if (!value || !std::isfinite(*value)) return std::nullopt;
    return Sample{h, {*value}, {std::fmax(size, std::abs(*value))}};
  };
  return derivative_of(curve, 1, steps);
}

}  // namespace moegrad
