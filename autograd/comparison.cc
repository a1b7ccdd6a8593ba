#include "autograd/comparison.h"

#include <cmath>
#include <limits>
#include <map>

#include "autograd/directions.h"

namespace moegrad {
namespace {

// A number is seen where what rounding hides is less than this part of it, or, for a zero, less
// than this part of the largest gradient of its input (of 1 where all are zero).
constexpr double kSeen = 1e-3;
constexpr double kSeenZero = 1e-6;
// Two numbers are zeros where both are within rounding, and that is below this part of the largest.
constexpr double kZero = 1e-8;
// How many roundings a number is still certain by.
constexpr double kRoundingsOfError = 8.0;
// What the error may be of a number that passes.
constexpr double kCertain = 1e-5;
// What an element of a gradient may change by where its cotangent is scaled, of the largest one.
constexpr double kScaledRounding = 1e-13;
// A gradient below this may lose digits where it is scaled.
constexpr double kUnderflows = 1e-290;

}  // namespace

void Pair::set_numeric(const Derivative& d) {
  numeric = d.value[cotangent];
  error = d.error[cotangent];
  rounding = d.rounding[cotangent];
  step = d.step[cotangent];
  jumps = d.jumps[cotangent];
  // An output that does not move at all may have absorbed the gradient within an operation.
  if (numeric == 0.0 && error == 0.0 && analytic != 0.0) {
    rounding = std::fmax(rounding, d.inner[cotangent]);
  }
}

void Comparison::add(const Pair& first, const std::function<Derivative()>& again) {
  Pair pair = first;
  Verdict verdict = judge(pair);
  std::string reason;
  if (verdict == Verdict::inconclusive) {
    reason =
        std::isfinite(pair.error)
            ? "the error estimate is too large"
            : "steps of different sizes see different slopes: a shape finer than the steps, or "
              "rounding within an operation";
  }
  if (verdict == Verdict::fail) {
    reason = pair.jumps
                 ? "analytic and numeric differ; the output jumps: is it computed in f32, or "
                   "rounded, inside?"
                 : "analytic and numeric differ";
  }
  if (verdict == Verdict::fail && !std::isfinite(pair.analytic)) {
    reason = "the gradient is not finite";
  } else if (verdict == Verdict::fail && report_.verdict != Verdict::fail) {
    const Derivative second = again();
    Pair other = pair;
    other.set_numeric(second);
    // It knows more of the rounding.
    const double rounding = kNoises * second.noise[pair.cotangent] / pair.step;
    if (judge(other) == Verdict::pass && std::abs(other.numeric - pair.numeric) <= rounding) {
      verdict = Verdict::pass;
      pair = other;
      reason.clear();
    } else if (!second.found || !confirms(other, pair)) {
      verdict = Verdict::inconclusive;
      reason = fmt::format("two sequences of steps disagree: {:.9g} and {:.9g}", pair.numeric,
                           other.numeric);
    }
  }
  pairs_.push_back(pair);
  keep_worst(pair, verdict, reason);
}

void Comparison::outside(std::int64_t place, const std::string& why) {
  if (report_.verdict == Verdict::fail) return;
  report_.verdict = Verdict::inconclusive;
  report_.worst = place;
  report_.analytic = report_.numeric = std::numeric_limits<double>::quiet_NaN();
  report_.error_estimate = std::numeric_limits<double>::infinity();
  report_.reason = why;
}

// Written so that NaN fails.
Verdict Comparison::judge(const Pair& pair) const {
  const double relative = options_.relative * pair.size();
  const double error = options_.error_factor * pair.error;
  if (std::isfinite(pair.analytic) && !(error < std::numeric_limits<double>::infinity())) {
    return Verdict::inconclusive;
  }
  if (!(pair.difference() <= relative + error + pair.rounding)) return Verdict::fail;
  // The noise of an element may be that of its input's larger ones.
  const double certain = std::fmax(kCertain * pair.size(), options_.relative * pair.largest);
  return error <= certain + kRoundingsOfError * pair.rounding ? Verdict::pass
                                                              : Verdict::inconclusive;
}

// Whether other steps say as well that the pair differs, and the same of the numeric number.
bool Comparison::confirms(const Pair& other, const Pair& pair) const {
  if (judge(other) != Verdict::fail) return false;
  const double apart = std::abs(other.numeric - pair.numeric);
  return apart <= 0.1 * std::fmin(pair.difference(), other.difference());
}

void Comparison::keep_worst(const Pair& pair, Verdict verdict, const std::string& reason) {
  const bool worst =
      report_.worst < 0 || verdict > report_.verdict ||
      (verdict == report_.verdict && !(relative_error(pair) <= report_.relative_error));
  if (!worst) return;
  report_.verdict = verdict;
  keep(pair, reason);
}

void Comparison::keep(const Pair& pair, const std::string& reason) {
  report_.worst = pair.place;
  report_.analytic = pair.analytic;
  report_.numeric = pair.numeric;
  report_.error_estimate = pair.error;
  report_.relative_error = relative_error(pair);
  report_.reason = reason;
}

double Comparison::relative_error(const Pair& pair) const {
  if (pair.difference() == 0.0) return 0.0;
  return pair.difference() / std::fmax(pair.size(), pair.rounding / options_.relative);
}

// A gradient that rounding hides everywhere was not checked, a zero no more than others.
void Comparison::finish() {
  std::map<int, double> largest;
  for (const Pair& pair : pairs_) {
    double& of_class = largest[class_of_[pair.cotangent]];
    if (pair.size() > pair.rounding) of_class = std::fmax(of_class, pair.size());
  }
  if (pairs_.empty() && report_.verdict == Verdict::pass) {
    report_.verdict = Verdict::inconclusive;
    report_.reason = "no element is finite";
    return;
  }
  report_.dead = report_.verdict == Verdict::pass;
  std::map<std::int64_t, bool> seen;  // a place, by any of its pairs
  for (const Pair& pair : pairs_) {
    ++report_.compared;
    const bool hidden = hides(pair, largest[class_of_[pair.cotangent]]);
    if (hidden) ++report_.excused;
    seen[pair.place] = seen[pair.place] || !hidden;
    if (pair.analytic != 0.0 || pair.numeric != 0.0) report_.dead = false;
  }
  if (report_.verdict != Verdict::pass) return;
  for (const Pair& pair : pairs_) {
    if (seen[pair.place]) continue;
    report_.verdict = Verdict::inconclusive;
    report_.dead = false;
    keep(pair, "the gradient is smaller than the rounding of the differences");
    return;
  }
}

// What agrees by grace of the rounding alone was not seen, however large others are, but for zeros.
bool Comparison::hides(const Pair& pair, double largest) const {
  if (!(largest > 0.0)) largest = 1.0;
  const double hidden = pair.rounding + options_.error_factor * pair.error;
  if (hidden <= kSeen * pair.size()) return false;
  const bool zeros = pair.size() <= pair.rounding && pair.rounding <= kZero * largest;
  const bool agrees =
      pair.difference() <= options_.relative * pair.size() + options_.error_factor * pair.error;
  return !(zeros || agrees) || hidden > kSeenZero * largest;
}

void require_linear(const Tensor& own, const Tensor& scaled, double scale, double relative,
                    InputReport& report) {
  if (report.verdict == Verdict::fail) return;
  const double rounding = kScaledRounding * largest_of(own);
  for (std::int64_t i = 0; i < own.numel(); ++i) {
    const double expected = scale * own.at(i);
    const double apart = std::abs(scaled.at(i) - expected);
    if (!std::isfinite(expected) || std::abs(expected) < kUnderflows) continue;
    if (apart <= relative * std::abs(expected) + scale * rounding) continue;
    report.verdict = Verdict::fail;
    report.dead = false;
    report.reason = fmt::format(
        "a vjp is linear: of {} times the cotangent, element {} of the gradient is {:.6g}, not "
        "{:.6g}; does backward clip, or drop what is small?",
        scale, i, scaled.at(i), expected);
    return;
  }
}

}  // namespace moegrad
