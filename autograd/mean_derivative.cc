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
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr double kAlike = 1e-12;  // a variance over a squared mean
constexpr double kChance = 2.0;   // standard errors
constexpr double kGrowth = 1.4;   // between 1 and kShrink
constexpr int kPatience = 3;      // widths without a better bound

// An event of which n samples show nothing has a probability of at most kUnseen / n, but for a
// chance of exp(-8) = 0.03 %.
constexpr double kUnseen = 8.0;
constexpr double kSmooth = 0.1;    // of a jump's height
constexpr double kNothing = 1e-9;  // likewise

// As many standard errors as are exceeded so rarely under Student's t distribution (Wallace, Annals
// of Mathematical Statistics 30, 1959).
double standard_errors(double free) {
  const double z = kStandardErrors * (8.0 * free + 3.0) / (8.0 * free + 1.0);
  return std::sqrt(free * std::expm1(z * z / free));
}

double mean_of(std::span<const double> x) {
  double sum = 0.0;
  for (const double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}

double range_of(std::span<const double> losses) {
  const auto [least, most] = std::minmax_element(losses.begin(), losses.end());
  return losses.empty() ? 0.0 : *most - *least;
}

// The height of a jump: exact for losses of two values, 2.5 standard deviations of normal ones.
double jump_of(std::span<const double> losses) {
  const double mean = mean_of(losses);
  double squares = 0.0;
  double sizes = 0.0;
  for (const double loss : losses) {
    squares += (loss - mean) * (loss - mean);
    sizes += std::abs(loss - mean);
  }
  return sizes > 0.0 ? 2.0 * squares / sizes : 0.0;
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
struct DerivativeColumn {
  double h = 0.0;
  Spread rest, bend;
  double reach = 0.0;      // the largest |loss that the sample's own derivative does not explain|
  bool one_sided = false;  // every weight changes alike: what gains them was not sampled
};

DerivativeColumn column_of(double h, const SampleDifferences& d, std::span<const double> own) {
  std::vector<double> rest(own.begin(), own.end());
  for (std::size_t s = 0; s < rest.size(); ++s) rest[s] -= d.slope[s];
  DerivativeColumn c{h, spread_of(std::move(rest)), spread_of(d.bend)};
  if (d.weight.empty()) return c;
  const Spread weight = spread_of(d.weight);
  const double squares = product_of(weight, weight);
  const double of_mean = static_cast<double>(own.size()) * weight.mean * weight.mean;
  if (squares <= kAlike * of_mean) {
    c.one_sided = std::abs(weight.mean) > 16.0 * kEpsilon / h;
    return c;
  }
  const double slope = product_of(weight, c.rest) / squares;
  const double leverage = std::sqrt(1.0 + of_mean / squares);
  for (std::size_t s = 0; s < own.size(); ++s) {
    c.rest.centred[s] = leverage * (c.rest.centred[s] - slope * weight.centred[s]);
  }
  c.rest.mean -= slope * weight.mean;
  return c;
}

// A sum of columns: the place and the factor of each.
using Combination = std::vector<std::pair<std::size_t, double>>;

class Widths {
 public:
  Widths(std::span<const double> own, const MeanDerivativeOptions& options)
      : options_(options),
        samples_(static_cast<double>(own.size())),
        errors_(standard_errors(std::fmax(1.0, samples_ - 2.0))),
        own_(mean_of(own)),
        jump_(jump_of(options.losses)),
        range_(range_of(options.losses)) {}

  // The first column is the probe.
  void add(DerivativeColumn c) {
    columns_.push_back(std::move(c));
    columns_.back().reach = 2.0 * columns_.back().h * furthest_of({{columns_.size() - 1, 1.0}});
    rest_covariance_.emplace_back();
    bend_covariance_.emplace_back();
    const DerivativeColumn& added = columns_.back();
    const double free = std::fmax(1.0, samples_ - 2.0);  // two are fitted: mean and slope
    for (const DerivativeColumn& other : columns_) {
      const double rest = product_of(added.rest, other.rest);
      const double bend = product_of(added.bend, other.bend);
      rest_covariance_.back().push_back(rest / free);
      bend_covariance_.back().push_back(bend / free);
    }
    const std::size_t last = columns_.size() - 1;
    if (last == 0) return;
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

  bool one_sided() const { return columns_.back().one_sided; }
  double bound() const { return best_.error; }

  // Narrower widths cannot help: sampling is the larger part of the bound, and what is narrower
  // than the last width would have shown in the probe, or be hidden by sampling.
  bool enough() const {
    return bound() < kInfinite && nothing_hidden() &&
           truncation_ <= 0.25 * (bound() - truncation_) + 1e-13 * options_.size;
  }
  bool nothing_hidden() const {
    if (contradicted_) return false;
    return errors_ * error_of({{0, 1.0}}) <= bound() ||
           errors_ * error_of({{columns_.size() - 1, 1.0}}) > 2.0 * bound();
  }

  MeanDerivative best() const { return best_; }

 private:
  struct Window {
    std::size_t first, last;
  };

  // The window of the least bound. A narrower difference should differ from it by as much less than
  // its own narrowest one does as its h^2 is less; where one differs by more, and not by chance,
  // the window is as wrong as that says (after Lepski).
  void choose() {
    best_ = {own_ - columns_.back().rest.mean, kInfinite, nullptr};
    for (const Window& w : windows_) {
      if (grows(w.last)) continue;
      const Combination all = extrapolated(w.first, w.last, 2);
      const double mean = mean_of_rests(all);
      // Against both windows that are one shorter.
      double truncation =
          rounding(all) +
          std::fmax(std::abs(mean - mean_of_rests(extrapolated(w.first, w.last - 1, 2))),
                    std::abs(mean - mean_of_rests(extrapolated(w.first + 1, w.last, 2))));
      truncation = std::fmax(truncation, kink_within(w));
      bool contradicted = false;
      const DerivativeColumn& narrow = columns_[w.last];
      const auto compare = [&](std::size_t i) {
        const DerivativeColumn& c = columns_[i];
        const double apart = std::abs(mean - c.rest.mean);
        const double near = std::abs(mean - narrow.rest.mean) * std::pow(c.h / narrow.h, 2);
        Combination difference = all;
        difference.emplace_back(i, -1.0);
        const double error = error_of(difference);
        if (apart <= near + kChance * error + rounding(difference)) return;
        truncation = std::fmax(truncation, apart + near + errors_ * error);
        contradicted = true;
      };
      for (std::size_t i = w.last + 1; i < columns_.size(); ++i) compare(i);
      compare(0);
      const double bound = sampling_of(all) + unseen(w.last) + truncation;
      if (!(bound < best_.error)) continue;
      best_ = {own_ - mean, bound, nullptr};
      truncation_ = truncation;
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

  // The slope does not settle: it grows with 1 / h from the width before to this one, as it does
  // where the mean jumps, or seems to for widths so large.
  bool grows(std::size_t i) const {
    const double wide = own_ - columns_[i - 1].rest.mean;
    const double slope = own_ - columns_[i].rest.mean;
    const Combination difference = {{i, 1.0}, {i - 1, -1.0}};
    return std::abs(slope) > kGrowth * std::abs(wide) &&
           std::abs(slope - wide) >
               kChance * error(difference, rest_covariance_, 0.0) + rounding(difference);
  }

  // A kink of the mean: a bend that does not vanish with h, and what it may be by chance.
  struct Kink {
    double size = 0.0, chance = 0.0;
    bool seen() const { return size > chance; }
  };
  Kink kink_of(std::size_t first, std::size_t last) const {
    const Combination bends = extrapolated(first, last, 1);
    double kink = 0.0;
    for (const auto& [i, factor] : bends) kink += factor * columns_[i].bend.mean;
    return {std::abs(kink), kChance * error(bends, bend_covariance_, 0.0) + 2.0 * rounding(bends)};
  }
  // Of the window, or of wider widths where narrower ones do not exclude it: half of a kink is the
  // error of a slope.
  double kink_within(const Window& w) const {
    const Kink all = kink_of(w.first, w.last);
    double kink = all.seen() ? all.size : 0.0;
    double hidden = 0.0;
    for (std::size_t i = 1; i < w.last; ++i) {
      const Kink pair = kink_of(i, i + 1);
      hidden = std::fmin(hidden, pair.size + pair.chance);
      if (!pair.seen()) continue;
      hidden = std::fmax(hidden, pair.size);
      if (i >= w.first) kink = std::fmax(kink, pair.size);
    }
    return std::fmax(kink, 0.5 * hidden);
  }

  double mean_of_rests(const Combination& sum) const {
    double mean = 0.0;
    for (const auto& [i, factor] : sum) mean += factor * columns_[i].rest.mean;
    return mean;
  }
  // Of samples as spread as these, and of one more as far off as the furthest of them with the
  // probability kUnseen / n (after Bernstein).
  double sampling_of(const Combination& sum) const {
    return errors_ * error_of(sum) + kUnseen / samples_ * furthest_of(sum);
  }
  // Jumps within the widest width that no sample shows: of the probability kUnseen / n and of the
  // height that the losses tell; where the samples are seen to be smooth, by the rule of three
  // (95 %). Where widths up to this one show no jump and wider ones do, these may be here too.
  double unseen(std::size_t last) const {
    if (!options_.may_jump) return 0.0;
    const double first = columns_[1].reach;
    const bool smooth = first > kNothing * jump_ && first < kSmooth * jump_;
    const double bound = (smooth ? 3.0 : kUnseen) / samples_ * jump_ / (2.0 * columns_[1].h);
    std::size_t i = last + 1;  // the widest that shows none
    while (i > 1 && columns_[i - 1].reach <= kNothing * range_) --i;
    if (i > last) return bound;
    double height = 0.0;
    for (std::size_t wider = 1; wider < i; ++wider) {
      height = std::fmax(height, std::fmin(range_, columns_[wider].reach));
    }
    return std::fmax(bound, kUnseen / samples_ * height / (2.0 * columns_[i].h));
  }
  double furthest_of(const Combination& sum) const {
    double furthest = 0.0;
    for (std::size_t s = 0; s < columns_[0].rest.centred.size(); ++s) {
      double off = 0.0;
      for (const auto& [i, factor] : sum) off += factor * columns_[i].rest.centred[s];
      furthest = std::fmax(furthest, std::abs(off));
    }
    return furthest;
  }
  double rounding(const Combination& sum) const {
    double size = 0.0;
    for (const auto& [i, factor] : sum) size += std::abs(factor) / columns_[i].h;
    return 16.0 * kEpsilon * (options_.size + options_.moved) * size;
  }
  // The standard error. Of jumps alone, two slopes have the covariance jumps_ / wider h: what the
  // samples show is not believed where it is less.
  using Matrix = std::vector<std::vector<double>>;
  double error_of(const Combination& sum) const { return error(sum, rest_covariance_, jumps_); }
  double error(const Combination& sum, const Matrix& covariance, double jumps) const {
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
  double errors_;  // standard errors that are not told from 0
  double own_;
  double jump_;   // of a loss
  double range_;  // of the losses
  std::vector<DerivativeColumn> columns_;
  Matrix rest_covariance_, bend_covariance_;  // of columns i >= j, for one sample
  double jumps_ = 0.0;                        // the variance of a slope by jumps, times h
  std::vector<Window> windows_;
  MeanDerivative best_{0.0, kInfinite, nullptr};
  double truncation_ = 0.0;    // of the best window
  bool contradicted_ = false;  // the best window, by narrower slopes
};

constexpr const char* kTooFew = "two samples tell no error";
constexpr const char* kNoEvent =
    "all samples gave the same loss: no sample showed an event of the noise, and how large a rare "
    "one may be is not known. Take more samples";
constexpr const char* kOneSided =
    "all sampled outcomes become less probable, or all more: no sample showed those that take "
    "their place. Take more samples";
constexpr const char* kNoWidth = "every step leaves the domain or the cell, or is not finite";
constexpr const char* kNoLimit =
    "the slopes of the mean do not settle as steps shrink, or too few steps stay in the domain and "
    "the cell";

MeanDerivative unknown(const char* why) { return {std::nan(""), kInfinite, why}; }

}  // namespace

MeanDerivative mean_derivative(
    const std::function<std::optional<SampleDifferences>(double)>& differences,
    std::span<const double> own, const MeanDerivativeOptions& options) {
  if (own.size() <= 2) return unknown(kTooFew);
  Widths widths(own, options);
  int idle = 0;
  int tried = 0;
  for (double h = options.first; h > kSmallest * options.first && tried < kWidths; h /= kShrink) {
    const auto d = differences(h);
    if (!d && tried == 0) continue;
    if (!d) break;
    if (tried++ == 0) {
      const auto fine = differences(kProbe * h);
      if (!fine) return unknown(kNoWidth);
      widths.add(column_of(kProbe * h, *fine, own));
    }
    const double before = widths.bound();
    widths.add(column_of(h, *d, own));
    if (widths.one_sided()) return unknown(kOneSided);
    idle = widths.bound() < before || before == kInfinite ? 0 : idle + 1;
    if (widths.enough() || (idle >= kPatience && widths.nothing_hidden())) break;
  }
  if (tried == 0) return unknown(kNoWidth);
  if (widths.bound() == kInfinite) return unknown(kNoLimit);
  const bool alike = jump_of(options.losses) <= 64.0 * kEpsilon * options.size;
  if (options.may_jump && alike) return {widths.best().value, kInfinite, kNoEvent};
  return widths.best();
}

}  // namespace moegrad
