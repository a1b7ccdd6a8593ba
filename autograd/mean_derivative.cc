#include "autograd/mean_derivative.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moegrad {
namespace {

constexpr double kShrink = 1.8;  // not 2: a dyadic step can be a period
constexpr double kProbe = 1e-5;  // of the first width
constexpr double kSmallest = 1e-12;
constexpr int kWidths = 24;
constexpr std::size_t kOrders = 4;
constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kChance = 2.0;  // standard errors
constexpr int kPatience = 3;     // widths without a better bound

double mean_of(std::span<const double> x) {
  double sum = 0.0;
  for (const double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}

// A number of each sample, less its mean.
struct Spread {
  double mean = 0.0;
  std::vector<double> centred;
};

Spread spread_of(std::vector<double> x) {
  const double mean = mean_of(x);
  for (double& v : x) v -= mean;
  return {mean, std::move(x)};
}

double product_of(const Spread& a, const Spread& b) {
  double sum = 0.0;
  for (std::size_t s = 0; s < a.centred.size(); ++s) sum += a.centred[s] * b.centred[s];
  return sum;
}

// One width: own - slope, less its regression on the slopes of the weights; and the bends.
struct Column {
  double h = 0.0;
  Spread rest, bend;
};

Column column_of(double h, const SampleDifferences& d, std::span<const double> own) {
  std::vector<double> rest(own.begin(), own.end());
  for (std::size_t s = 0; s < rest.size(); ++s) rest[s] -= d.slope[s];
  Column c{h, spread_of(std::move(rest)), spread_of(d.bend)};
  if (d.weight.empty()) return c;
  const Spread weight = spread_of(d.weight);
  const double squares = product_of(weight, weight);
  if (!(squares > 0.0)) return c;
  const double slope = product_of(weight, c.rest) / squares;
  for (std::size_t s = 0; s < own.size(); ++s) c.rest.centred[s] -= slope * weight.centred[s];
  c.rest.mean -= slope * weight.mean;
  return c;
}

// A sum of columns: the place and the factor of each.
using Combination = std::vector<std::pair<std::size_t, double>>;

class Widths {
 public:
  Widths(std::span<const double> own, const MeanDerivativeOptions& options)
      : options_(options), samples_(static_cast<double>(own.size())), own_(mean_of(own)) {}

  // The first column is the probe.
  void add(Column c) {
    columns_.push_back(std::move(c));
    rest_covariance_.emplace_back();
    bend_covariance_.emplace_back();
    const Column& added = columns_.back();
    const double free = std::fmax(1.0, samples_ - 2.0);  // two are fitted: mean and slope
    for (const Column& other : columns_) {
      const double rest = product_of(added.rest, other.rest);
      const double bend = product_of(added.bend, other.bend);
      rest_covariance_.back().push_back(rest / free);
      bend_covariance_.back().push_back(bend / free);
    }
    const std::size_t last = columns_.size() - 1;
    if (last == 0) return;
    if (last == 1 && options_.may_jump) {
      unseen_ = 3.0 / (2.0 * columns_[1].h * samples_) * options_.spread;
    }
    for (std::size_t j = 1; j < last; ++j) {
      const double more = rest_covariance_[last][last] - rest_covariance_[j][j];
      if (!options_.may_jump) break;
      jumps_ = std::fmax(jumps_, more / (1.0 / columns_[last].h - 1.0 / columns_[j].h));
    }
    for (std::size_t order = 2; order <= std::min(kOrders, last); ++order) {
      windows_.push_back({last + 1 - order, last});
    }
    choose();
  }

  double bound() const { return bound_; }

  // Narrower widths cannot help: sampling is the larger part of the bound, and what is narrower
  // than the last width would have shown in the probe, or be hidden by sampling.
  bool enough() const {
    const double sampling = kStandardErrors * best_.deviation + unseen_;
    return bound_ < kInfinite && nothing_hidden() &&
           best_.truncation - unseen_ <= 0.25 * sampling + 1e-13 * options_.size;
  }
  bool nothing_hidden() const {
    if (contradicted_) return false;
    return kStandardErrors * error_of({{0, 1.0}}) <= bound_ ||
           kStandardErrors * error_of({{columns_.size() - 1, 1.0}}) > 2.0 * bound_;
  }

  MeanDerivative best() const {
    if (best_.inside || columns_.empty()) return best_;
    return {own_ - columns_.back().rest.mean, kInfinite, kInfinite, true};
  }

 private:
  struct Window {
    std::size_t first, last;
  };

  // The window of the least bound. A narrower difference should differ from it by as much less than
  // its own narrowest one does as its h^2 is less; where one differs by more, and not by chance,
  // the window is as wrong as that says (after Lepski).
  void choose() {
    bound_ = kInfinite;
    for (const Window& w : windows_) {
      const Combination all = extrapolated(w.first, w.last, 2);
      const double mean = mean_of_rests(all);
      const double deviation = error_of(all);
      // Against both windows that are one shorter.
      double truncation =
          rounding(all) +
          std::fmax(std::abs(mean - mean_of_rests(extrapolated(w.first, w.last - 1, 2))),
                    std::abs(mean - mean_of_rests(extrapolated(w.first + 1, w.last, 2))));
      const Combination bends = extrapolated(w.first, w.last, 1);
      double kink = 0.0;
      for (const auto& [i, factor] : bends) kink += factor * columns_[i].bend.mean;
      if (std::abs(kink) > kChance * bend_error_of(bends) + 2.0 * rounding(bends)) {
        truncation = std::fmax(truncation, std::abs(kink));
      }
      bool contradicted = false;
      const Column& narrow = columns_[w.last];
      const auto compare = [&](std::size_t i) {
        const Column& c = columns_[i];
        const double apart = std::abs(mean - c.rest.mean);
        const double near = std::abs(mean - narrow.rest.mean) * std::pow(c.h / narrow.h, 2);
        Combination difference = all;
        difference.emplace_back(i, -1.0);
        const double error = error_of(difference);
        if (apart <= near + kChance * error + rounding(difference)) return;
        truncation = std::fmax(truncation, apart + near + kStandardErrors * error);
        contradicted = true;
      };
      for (std::size_t i = w.last + 1; i < columns_.size(); ++i) compare(i);
      compare(0);
      truncation += unseen_;
      const double bound = kStandardErrors * deviation + truncation;
      if (!(bound < bound_)) continue;
      bound_ = bound;
      best_ = {own_ - mean, truncation, deviation, true};
      contradicted_ = contradicted;
    }
  }

  // To h = 0, without the powers `power`, power + 2, ... of h: as many as there are further
  // columns.
  static Combination extrapolated(std::size_t first, std::size_t last, int power) {
    const std::size_t n = last - first + 1;
    std::vector<std::vector<double>> row(n, std::vector<double>(n, 0.0));
    for (std::size_t i = 0; i < n; ++i) row[i][i] = 1.0;
    for (std::size_t left = n - 1; left > 0; --left, power += 2) {
      const double factor = std::pow(kShrink, power);
      for (std::size_t i = 0; i < left; ++i) {
        for (std::size_t c = 0; c < n; ++c) {
          row[i][c] = (factor * row[i + 1][c] - row[i][c]) / (factor - 1.0);
        }
      }
    }
    Combination all;
    for (std::size_t c = 0; c < n; ++c) all.emplace_back(first + c, row[0][c]);
    return all;
  }

  double mean_of_rests(const Combination& sum) const {
    double mean = 0.0;
    for (const auto& [i, factor] : sum) mean += factor * columns_[i].rest.mean;
    return mean;
  }
  double rounding(const Combination& sum) const {
    double size = 0.0;
    for (const auto& [i, factor] : sum) size += std::abs(factor) / columns_[i].h;
    return 16.0 * std::numeric_limits<double>::epsilon() * (options_.size + options_.moved) * size;
  }
  // The standard error. Of jumps alone, two slopes have the covariance jumps_ / wider h, two bends
  // four times that: what the samples show is not believed where it is less.
  using Matrix = std::vector<std::vector<double>>;
  double error_of(const Combination& sum) const { return error(sum, rest_covariance_, jumps_); }
  double bend_error_of(const Combination& sum) const {
    return error(sum, bend_covariance_, 4.0 * jumps_);
  }
  double error(const Combination& sum, const Matrix& covariance, double jumps) const {
    if (samples_ <= 2.0) return kInfinite;
    double variance = 0.0;
    double law = 0.0;
    for (const auto& [i, a] : sum) {
      for (const auto& [j, b] : sum) {
        variance += a * b * covariance[std::max(i, j)][std::min(i, j)];
        law += a * b * jumps / std::fmax(columns_[i].h, columns_[j].h);
      }
    }
    return std::sqrt(std::fmax(0.0, std::fmax(variance, law)) / samples_);
  }

  const MeanDerivativeOptions& options_;
  double samples_;
  double own_;
  std::vector<Column> columns_;
  Matrix rest_covariance_, bend_covariance_;  // of columns i >= j, for one sample
  double jumps_ = 0.0;                        // the variance of a slope by jumps, times h
  std::vector<Window> windows_;
  MeanDerivative best_;
  bool contradicted_ = false;  // the best window, by narrower slopes
  double bound_ = kInfinite;
  double unseen_ = 0.0;
};

}  // namespace

MeanDerivative mean_derivative(
    const std::function<std::optional<SampleDifferences>(double)>& differences,
    std::span<const double> own, const MeanDerivativeOptions& options) {
  Widths widths(own, options);
  int idle = 0;
  int tried = 0;
  for (double h = options.first; h > kSmallest * options.first && tried < kWidths; h /= kShrink) {
    const auto d = differences(h);
    if (!d && tried == 0) continue;
    if (!d) break;
    if (tried++ == 0) {
      const auto fine = differences(kProbe * h);
      if (!fine) return {};
      widths.add(column_of(kProbe * h, *fine, own));
    }
    const double before = widths.bound();
    widths.add(column_of(h, *d, own));
    idle = widths.bound() < before ? 0 : idle + 1;
    if (widths.enough() || (idle >= kPatience && widths.nothing_hidden())) break;
  }
  return widths.best();
}

}  // namespace moegrad
