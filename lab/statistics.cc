#include "lab/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/students_t.hpp>

#include "tensor/error.h"

namespace moegrad {
namespace {

constexpr double kNotDefined = std::numeric_limits<double>::quiet_NaN();
constexpr double kLevel = 0.05;

// P(T >= t) of Student's t; t may be infinite.
double above(double t, double degrees) {
  if (std::isinf(t)) return t > 0 ? 0.0 : 1.0;
  return boost::math::cdf(boost::math::complement(boost::math::students_t(degrees), t));
}

// t = distance / error, where all differences may be the same number.
double ratio(double distance, double error) {
  if (error > 0.0) return distance / error;
  return distance == 0.0 ? 0.0 : std::copysign(std::numeric_limits<double>::infinity(), distance);
}

}  // namespace

PairedDifference paired_difference(std::span<const double> a, std::span<const double> b,
                                   double margin) {
  if (a.size() != b.size()) {
    fail("statistics", "{} and {} numbers. Pairs have one of each.", a.size(), b.size());
  }
  PairedDifference d{.pairs = static_cast<int>(a.size())};
  const auto n = static_cast<double>(a.size());
  std::vector<double> differences(a.size());
  std::ranges::transform(a, b, differences.begin(), std::minus<>());
  d.mean = n > 0 ? std::accumulate(differences.begin(), differences.end(), 0.0) / n : kNotDefined;
  if (d.pairs < 2 || !std::isfinite(d.mean)) {
    d.error = d.low = d.high = d.deviation = kNotDefined;
    return d;
  }
  double squares = 0.0;
  for (const double x : differences) squares += (x - d.mean) * (x - d.mean);
  d.deviation = std::sqrt(squares / (n - 1.0));
  d.error = d.deviation / std::sqrt(n);
  const double t = boost::math::quantile(boost::math::students_t(n - 1.0), 1.0 - kLevel / 2.0);
  d.low = d.mean - t * d.error;
  d.high = d.mean + t * d.error;
  d.p_different = std::min(1.0, 2.0 * above(std::abs(ratio(d.mean, d.error)), n - 1.0));
  d.p_equivalent = std::max(above(ratio(d.mean + margin, d.error), n - 1.0),
                            above(ratio(margin - d.mean, d.error), n - 1.0));
  return d;
}

PairedDifference difference_of_ended(std::span<const double> a, std::span<const double> b,
                                     double margin) {
  if (a.size() != b.size()) return paired_difference(a, b, margin);  // its error
  std::vector<double> mine;
  std::vector<double> other;
  for (std::size_t s = 0; s < a.size(); ++s) {
    if (std::isnan(a[s]) || std::isnan(b[s])) continue;
    mine.push_back(a[s]);
    other.push_back(b[s]);
  }
  return paired_difference(mine, other, margin);
}

std::vector<double> holm(std::span<const double> p, std::size_t most_true) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return p[i]; });
  std::vector<double> corrected(p.size());
  double largest = 0.0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const std::size_t left = std::min(most_true, p.size() - rank);
    largest = std::max(largest, p[order[rank]] * static_cast<double>(left));
    corrected[order[rank]] = std::min(1.0, largest);
  }
  return corrected;
}

std::string_view name_of(Finding finding) {
  switch (finding) {
    case Finding::lower:
      return "lower";
    case Finding::higher:
      return "higher";
    case Finding::equivalent:
      return "equivalent";
    default:
      return "undecided";
  }
}

Finding compared(const PairedDifference& d, double p_different, double p_equivalent) {
  if (p_equivalent < kLevel) return Finding::equivalent;
  if (p_different < kLevel) return d.mean < 0.0 ? Finding::lower : Finding::higher;
  return Finding::undecided;
}

PairedGuesses paired_guesses(std::span<const std::int32_t> a, std::span<const std::int32_t> b,
                             std::span<const std::int32_t> labels) {
  if (a.size() != labels.size() || b.size() != labels.size()) {
    fail("statistics", "{} and {} guesses for {} labels. Give one of each for every example.",
         a.size(), b.size(), labels.size());
  }
  PairedGuesses g;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    g.only_a += a[i] == labels[i] && b[i] != labels[i] ? 1 : 0;
    g.only_b += b[i] == labels[i] && a[i] != labels[i] ? 1 : 0;
  }
  const auto n = static_cast<double>(g.only_a + g.only_b);
  const auto fewer = static_cast<double>(std::min(g.only_a, g.only_b));
  if (n > 0) {
    g.p = std::min(1.0, 2.0 * boost::math::cdf(boost::math::binomial(n, 0.5), fewer));
  }
  return g;
}

double seeds_needed(double deviation, double difference) {
  return 7.85 * std::pow(deviation / difference, 2) + 2.0;
}

}  // namespace moegrad
