#include "autograd/differences.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moegrad {
namespace {

constexpr double kRoundingOfDifference = 8.0 * std::numeric_limits<double>::epsilon();
constexpr double kConverged = 1e-11;  // relative
constexpr double kUsable = 1e-6;      // relative: further steps that bring nothing end the search
constexpr double kSmall = 0.01;       // of Steps::distance
constexpr double kFurther = 150.0;    // from one of the much smaller steps to the next
constexpr double kLast = 1.3;         // times the smallest: the last of them
constexpr double kShape = 1e-7;       // relative: what smaller steps may differ by
constexpr double kOwnNoise = 2e3;     // times the rounding of `inner`: higher jumps are no rounding
constexpr double kSums = 32.0;        // times the rounding that is known of, where nothing jumps
constexpr int kHalvings = 50;
constexpr std::size_t kLastHalvings = 10;  // at which what is left is a jump
constexpr int kStraight = 3;               // halvings on end that show no jump: there is none
constexpr double kLeast = 4.0 * std::numeric_limits<double>::denorm_min();
constexpr double kInfiniteError = std::numeric_limits<double>::infinity();
constexpr int kMostRows = 48;
constexpr int kFewRows = 5;  // the point is near the end of the domain
constexpr std::size_t kMostOrders = 9;

// The central difference at one step.
struct Quotient {
  std::vector<double> value;
  std::vector<double> rounding;
};

std::optional<Quotient> quotient(const Sample& up, const Sample& down) {
  const double width = up.h - down.h;
  if (!(width > 0.0)) return std::nullopt;
  Quotient q;
  for (std::size_t c = 0; c < up.value.size(); ++c) {
    q.value.push_back((up.value[c] - down.value[c]) / width);
    const double rounding = kRoundingOfDifference * std::fmax(up.size[c], down.size[c]) + kLeast;
    q.rounding.push_back(rounding / (0.5 * width));
    if (!std::isfinite(q.value.back()) || !std::isfinite(q.rounding.back())) return std::nullopt;
  }
  return q;
}
std::optional<Quotient> quotient(const Curve& curve, double h) {
  const std::optional<Sample> up = curve(h);
  const std::optional<Sample> down = up ? curve(-h) : std::nullopt;
  return down ? quotient(*up, *down) : std::nullopt;
}

class Search {
 public:
  Search(const Curve& curve, std::size_t components, const Steps& steps)
      : curve_(curve), steps_(steps) {
    best_.value.assign(components, 0.0);
    best_.error.assign(components, kInfiniteError);
    best_.rounding.assign(components, 0.0);
    best_.jumps.assign(components, false);
    best_.inner.assign(components, 0.0);
    best_.noise.assign(components, 0.0);
    best_.step.assign(components, steps.first);
    noise_.resize(components);
    plain_.assign(components, 0.0);
    unresolved_.assign(components, false);
  }

  Derivative run() {
    if (!std::isfinite(steps_.first)) return std::move(best_);
    if (descend(steps_.first) < kFewRows && steps_.least < steps_.smallest) {
      steps_.smallest = steps_.least;
      descend(steps_.first);
    }
    if (best_.found) confirm();
    return std::move(best_);
  }

 private:
  // What an entry of the tableau is judged by: its error in units of what it could be.
  static double score(double value, double error, double rounding) {
    return (error + rounding) /
           std::fmax(std::abs(value) + rounding, std::numeric_limits<double>::denorm_min());
  }

  // An error that is small beside the distance.
  double small_error() const { return kSmall * steps_.distance.value_or(0.0); }

  // From step h on, until all components have converged or steps are too small; the number of steps
  // with a value, or kFewRows where they have.
  int descend(double h) {
    std::vector<std::vector<double>> previous;  // the last row of the tableau, by order
    int stale = 0;
    int rows = 0;
    for (; h >= steps_.smallest && rows < kMostRows; h /= steps_.factor) {
      const std::optional<Quotient> q = quotient(curve_, h);
      if (!q) {
        previous.clear();
        if (rows == 0) h *= steps_.factor / 4.0;  // still far outside
        continue;
      }
      ++rows;
      const bool better = add_row(*q, h, previous);
      stale = better ? 0 : stale + 1;
      if (previous.size() >= 3 && all([&](std::size_t c) {
            const double converged = kConverged * std::abs(best_.value[c]) + best_.rounding[c];
            return best_.error[c] <= std::fmax(converged, small_error());
          })) {
        return std::max(rows, kFewRows);
      }
      if (stale >= 4 && all([&](std::size_t c) {
            return best_.error[c] <= kUsable * std::abs(best_.value[c]) + best_.rounding[c];
          })) {
        return std::max(rows, kFewRows);
      }
    }
    return rows;
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
          best_.step[c] = h;
          plain_[c] = std::abs(q.value[c] - value);
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
    here_ = curve_(0.0);
    const double smallest = kLast * steps_.smallest;
    double h = *std::ranges::max_element(best_.step);
    if (!here_ || h <= smallest) return;
    const double looks = std::fmax(2.0, std::ceil(std::log(h / smallest) / std::log(kFurther)));
    const double factor = std::pow(h / smallest, 1.0 / looks);
    while (h > smallest) {
      h = std::fmax(h / factor, smallest);
      if (h < smallest * std::sqrt(factor)) h = smallest;
      if (const std::optional<Look> at = look(h)) reconsider(*at);
    }
    for (std::size_t c = 0; c < best_.step.size(); ++c) {
      if (unresolved_[c] || bent(c)) best_.error[c] = kInfiniteError;
      for (const Look& at : looks_) {
        const double more = unexplained(at, c);
        if (!best_.jumps[c]) best_.error[c] = std::fmax(best_.error[c], more);
      }
      best_.inner[c] = inner_rounding(c, best_.step[c]);
      const double most = kNoises * kOwnNoise * best_.inner[c];
      if (steps_.distance && *steps_.distance <= most && !noise_[c]) find_noise(c);
      best_.noise[c] = noise_[c].value_or(0.0);
      best_.rounding[c] = std::fmax(best_.rounding[c], kNoises * best_.noise[c] / best_.step[c]);
    }
  }

  // The central difference at h, and what the slopes on its two sides differ by.
  struct Look {
    double h;
    Quotient quotient;
    std::vector<double> bend;
  };
  std::optional<Look> look(double h) {
    const std::optional<Sample> up = curve_(h);
    const std::optional<Sample> down = up ? curve_(-h) : std::nullopt;
    std::optional<Quotient> q = down ? quotient(*up, *down) : std::nullopt;
    if (!q || !here_) return std::nullopt;
    Look at{h, *std::move(q), {}};
    for (std::size_t c = 0; c < best_.step.size(); ++c) {
      if (up->value[c] == down->value[c]) at.quotient.rounding[c] = inner_rounding(c, h);
      const double above = (up->value[c] - here_->value[c]) / up->h;
      const double below = (here_->value[c] - down->value[c]) / -down->h;
      at.bend.push_back(std::abs(above - below));
    }
    looks_.push_back(at);
    return at;
  }

  // Searches anew below h for the components that the quotient at h contradicts; where that finds
  // nothing, their values are not known.
  void reconsider(const Look& at) {
    std::vector<std::size_t> contradicted;
    for (std::size_t c = 0; c < best_.step.size(); ++c) {
      if (unresolved_[c] || contradicts(at, c)) contradicted.push_back(c);
    }
    if (contradicted.empty()) return;
    const Derivative before = best_;
    const std::vector<double> plain = plain_;
    for (const std::size_t c : contradicted) best_.error[c] = kInfiniteError;
    descend(at.h * 10.0);
    for (const std::size_t c : contradicted) {
      const double gap = std::abs(at.quotient.value[c] - before.value[c]);
      unresolved_[c] = !(4.0 * best_.error[c] + best_.rounding[c] <= gap) || contradicts(at, c);
      if (!unresolved_[c]) continue;
      best_.value[c] = before.value[c];
      best_.error[c] = before.error[c];
      best_.rounding[c] = before.rounding[c];
      best_.step[c] = before.step[c];
      plain_[c] = plain[c];
    }
  }

  // What the quotient at a smaller step differs by that neither its step nor rounding explains; 0
  // where that is within the error.
  double unexplained(const Look& at, std::size_t c) {
    const double part = at.h / best_.step[c];
    const double gap =
        std::abs(at.quotient.value[c] - best_.value[c]) - 3.0 * plain_[c] * part * part;
    const double rounding = 4.0 * at.quotient.rounding[c];
    if (at.h >= best_.step[c] || gap <= best_.error[c] + rounding) return 0.0;
    return std::fmax(0.0, gap - std::fmax(rounding, noise_at(at, c)));
  }
  bool contradicts(const Look& at, std::size_t c) {
    const double size = std::abs(best_.value[c]);
    const double shape = kShape * size + std::fmin(best_.error[c], 1e-3 * size);
    return !(unexplained(at, c) <= std::fmax(shape, small_error()));
  }

  // At the smallest steps the slopes on both sides differ, by no less than at larger ones: a kink,
  // or a shape finer than the steps. A smooth function's come together as h does.
  bool bent(std::size_t c) {
    const std::size_t n = looks_.size();
    if (n < 2) return false;
    const auto stays = [&](const Look& before, const Look& at) {
      const double smooth =
          std::fmax(3.0 * before.bend[c] * at.h / before.h, 1e-6 * std::abs(best_.value[c]));
      return at.bend[c] > smooth + 4.0 * at.quotient.rounding[c] &&
             at.bend[c] > smooth + noise_at(at, c);
    };
    if (stays(looks_[n - 2], looks_[n - 1])) return true;
    return n > 2 && stays(looks_[n - 3], looks_[n - 2]) &&
           looks_[n - 1].bend[c] + noise_at(looks_[n - 1], c) >= 0.3 * looks_[n - 2].bend[c];
  }

  double inner_rounding(std::size_t c, double h) const {
    const double size = here_->inner.empty() ? 1.0 : here_->inner[c];
    return (kRoundingOfDifference * std::fmax(size, here_->size[c]) + kLeast) / h;
  }
  double noise_at(const Look& at, std::size_t c) {
    if (!noise_[c]) find_noise(c);
    return kNoises * (at.quotient.rounding[c] + *noise_[c] / at.h);
  }

  // What rounding within the function makes of a component: how far it is from a straight line at
  // steps so small that a smooth function is one. Much rounding, within an operation, shows as
  // jumps as well: what has none, or higher ones than rounding can make, may be a shape.
  void find_noise(std::size_t c) {
    noise_[c] = 0.0;
    double jump = 0.0;
    for (double h = best_.step[c]; h >= steps_.smallest; h /= kFurther) {
      for (const double side : {h, -h}) jump = std::fmax(jump, jump_within(side, c));
    }
    const double highest = kOwnNoise * inner_rounding(c, 1.0);
    best_.jumps[c] = jump > highest;
    if (best_.jumps[c]) return;
    noise_[c] = jump;
    const double most = jump > 0.0 ? highest : kSums * kRoundingOfDifference * here_->size[c];
    std::optional<double> widest;
    for (const double multiple : {10.0, 7.6, 5.5, 3.8, 2.7, 1.9, 1.3, 1.0}) {
      const double h = steps_.smallest * multiple;
      const std::optional<Sample> up = curve_(h);
      const std::optional<Sample> down = curve_(-h);
      const std::optional<Quotient> q = up && down ? quotient(*up, *down) : std::nullopt;
      if (!q) continue;
      if (!widest) widest = q->value[c];
      const double bend = std::abs(up->value[c] - 2.0 * here_->value[c] + down->value[c]);
      const double turn = std::abs(q->value[c] - *widest) * h;
      noise_[c] = std::fmax(*noise_[c], std::fmin(std::fmax(bend, turn), most));
    }
  }

  // The height of a jump between h / 2 and h: what is left where an interval is halved, each time
  // to the half that is further from a straight line, until its ends meet. Of a shape nothing is. 0
  // where it is no more than the rounding that is known of: wherever a jump is within an interval,
  // half of it shows in one of the halves.
  double jump_within(double h, std::size_t c) {
    std::optional<Sample> a = curve_(0.5 * h);
    std::optional<Sample> middle = a ? curve_(0.75 * h) : std::nullopt;
    std::optional<Sample> b = middle ? curve_(h) : std::nullopt;
    std::vector<double> heights;
    int straight = 0;
    for (int i = 0; b && i < kHalvings; ++i) {
      std::optional<Sample> first = between(*a, *middle);
      std::optional<Sample> second = between(*middle, *b);
      if (!first || !second) break;
      const double left = off_line(*a, *first, *middle, c);
      const double right = off_line(*middle, *second, *b, c);
      heights.push_back(2.0 * std::fmax(left, right));
      straight = heights.back() > kRoundingOfDifference * b->size[c] ? 0 : straight + 1;
      if (straight == kStraight) return 0.0;
      (left > right ? b : a) = std::move(middle);
      middle = std::move(left > right ? first : second);
    }
    double height = 0.0;
    const std::size_t last = std::min(heights.size(), kLastHalvings);
    for (std::size_t i = heights.size() - last; i < heights.size(); ++i) {
      height = std::fmax(height, heights[i]);
    }
    return b && height > kRoundingOfDifference * b->size[c] ? height : 0.0;
  }
  std::optional<Sample> between(const Sample& a, const Sample& b) {
    std::optional<Sample> middle = curve_(a.h + 0.5 * (b.h - a.h));
    if (middle && (middle->h == a.h || middle->h == b.h)) middle.reset();
    return middle;
  }
  static double off_line(const Sample& a, const Sample& m, const Sample& b, std::size_t c) {
    const double line = (b.value[c] - a.value[c]) * ((m.h - a.h) / (b.h - a.h));
    return std::abs((m.value[c] - a.value[c]) - line);
  }

  template <class Holds>
  bool all(Holds holds) const {
    for (std::size_t c = 0; c < best_.value.size(); ++c) {
      if (!holds(c)) return false;
    }
    return true;
  }

  const Curve& curve_;
  Steps steps_;
  Derivative best_;
  std::vector<std::optional<double>> noise_;  // of each component, once it was asked for
  std::vector<double> plain_;  // what the quotient there, which is not extrapolated, differs by
  std::vector<bool> unresolved_;
  std::optional<Sample> here_;
  std::vector<Look> looks_;
};

}  // namespace

Steps others_than(const Steps& steps, double distance) {
  return {.first = 0.37 * steps.first,
          .factor = 1.45,
          .smallest = steps.smallest,
          .least = steps.least,
          .distance = distance};
}

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
