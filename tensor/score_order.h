#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "tensor/kernels.h"

// What Kernels::top_biased does for one token, on plain arrays, for the host and the device. Sums
// are exact only where each operation is rounded by itself: no contraction to fma.
namespace moegrad::score_order {

// high + low, the second below the rounding of the first; then what decides between equal sums.
struct ExactSum {
  double high = 0.0;
  double low = 0.0;
  double logit = 0.0;
};

MOEGRAD_HD bool operator<(const ExactSum& a, const ExactSum& b) {
  if (a.high != b.high) return a.high < b.high;
  if (a.low != b.low) return a.low < b.low;
  return a.logit < b.logit;
}

// Knuth's exact sum of two numbers.
MOEGRAD_HD ExactSum two_sum(double a, double b) {
  const double high = a + b;
  const double part = high - a;
  return {high, (a - (high - part)) + (b - part), 0.0};
}

MOEGRAD_HD ExactSum operator+(const ExactSum& a, const ExactSum& b) {
  const ExactSum s = two_sum(a.high, b.high);
  return two_sum(s.high, s.low + (a.low + b.low));
}

// sigmoid(o) + b: of a positive logit s = 1 - sigmoid(-o).
MOEGRAD_HD ExactSum of_sigmoid(double o, double b) {
  const double part = 1.0 / (1.0 + math::exp(std::abs(o)));
  ExactSum s = two_sum(o > 0.0 ? 1.0 : 0.0, b) + ExactSum{o > 0.0 ? -part : part, 0.0, 0.0};
  s.logit = o;
  return s;
}

// e^o / e^log_total + b
MOEGRAD_HD ExactSum of_softmax(double o, double b, double log_total) {
  ExactSum s = two_sum(b, math::exp(o - log_total));
  s.logit = o;
  return s;
}

// sqrt(log(1 + e^o)) + b: of a negative logit from e^(o/2), which lives longer. The root is rounded, to
// 16 digits: logits that are neighbours in f64 may change places.
MOEGRAD_HD ExactSum of_root_softplus(double o, double b) {
  const double root = math::exp(0.5 * o);
  const double s =
      o < -40.0 ? root : std::sqrt((o > 0.0 ? o : 0.0) + math::log1p(math::exp(-std::abs(o))));
  ExactSum sum = two_sum(b, s);
  sum.logit = o;
  return sum;
}

MOEGRAD_HD ExactSum score_of(Score score, double o, double b, double log_total) {
  switch (score) {
    case Score::sigmoid:
      return of_sigmoid(o, b);
    case Score::root_softplus:
      return of_root_softplus(o, b);
    default:
      return of_softmax(o, b, log_total);
  }
}

// The next `count` of those that are open, the largest first; they are closed. A NaN is never
// larger.
template <class T>
MOEGRAD_HD void take_largest(const T* values, std::int64_t n, char* open, std::int64_t count,
                             std::int32_t* out) {
  for (std::int64_t j = 0; j < count; ++j) {
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < n; ++i) {
      if (open[i] != 0 && (best < 0 || values[best] < values[i])) best = i;
    }
    open[best] = 0;
    out[j] = static_cast<std::int32_t>(best);
  }
}

// Experts 0 .. E-1 of one token, in groups of E/groups, of which `kept` count.
struct Groups {
  std::int64_t experts;
  std::int64_t groups;
  std::int64_t kept;
  std::int64_t each = experts / groups;
};

// The score of a group: the sum of its two largest sums, or its one.
MOEGRAD_HD double group_score(const Groups& g, const double* sums, std::int64_t group) {
  double first = -std::numeric_limits<double>::infinity();
  double second = first;
  for (std::int64_t e = group * g.each; e < (group + 1) * g.each; ++e) {
    second = std::fmax(second, std::fmin(first, sums[e]));
    first = std::fmax(first, sums[e]);
  }
  return g.each > 1 ? first + second : first;
}

// Of the sums of a token those outside of its best groups become -infinity. scores, open and order:
// room for one element a group. True where `apart` says so of the last group that counts and the
// next one.
template <class Apart>
MOEGRAD_HD bool keep_groups(const Groups& g, double* sums, const Apart& apart, double* scores,
                            char* open, std::int32_t* order) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  const std::int64_t each = g.each;
  for (std::int64_t i = 0; i < g.groups; ++i) {
    scores[i] = group_score(g, sums, i);
    open[i] = 1;
  }
  take_largest(scores, g.groups, open, g.groups, order);
  for (std::int64_t place = g.kept; place < g.groups; ++place) {
    double* const group = sums + order[place] * each;
    for (std::int64_t i = 0; i < each; ++i) group[i] = kNone;
  }
  return apart(scores[order[g.kept - 1]], scores[order[g.kept]]);
}

// Room that one token needs to be ordered exactly.
struct Workspace {
  ExactSum* sums;       // [E]
  ExactSum* scores;     // [groups]
  char* open;           // [E]
  char* closed;         // [groups]
  std::int32_t* order;  // [groups]
};

// The k largest of one token's logits o and biases b, to 32 digits.
MOEGRAD_HD void order_exactly(Score score, const Groups& g, const double* o, const double* b,
                              const Workspace& w, std::int64_t k, std::int32_t* out) {
  double log_total = 0.0;
  if (score == Score::softmax) {
    double top = o[0];
    for (std::int64_t i = 1; i < g.experts; ++i) top = top < o[i] ? o[i] : top;
    for (std::int64_t i = 0; i < g.experts; ++i) log_total += math::exp(o[i] - top);
    log_total = top + math::log(log_total);
  }
  for (std::int64_t i = 0; i < g.experts; ++i) {
    w.sums[i] = score_of(score, o[i], b[i], log_total);
    w.open[i] = 1;
  }
  if (g.kept < g.groups) {
    const std::int64_t each = g.each;
    for (std::int64_t i = 0; i < g.groups; ++i) {
      const ExactSum* const group = w.sums + i * each;
      std::int32_t two[2];
      take_largest(group, each, w.open + i * each, each > 1 ? 2 : 1, two);
      w.scores[i] = each > 1 ? group[two[0]] + group[two[1]] : group[two[0]];
      w.scores[i].logit = 0.0;
      w.closed[i] = 1;
    }
    take_largest(w.scores, g.groups, w.closed, g.kept, w.order);
    for (std::int64_t i = 0; i < g.experts; ++i) w.open[i] = w.closed[i / each] == 0 ? 1 : 0;
  }
  take_largest(w.sums, g.experts, w.open, k, out);
}

}  // namespace moegrad::score_order
