// The fields of a Routing, held against each other.

#include <cmath>
#include <limits>
#include <set>

#include "moe/checks/check.h"

namespace moegrad {
namespace {

std::set<double> row_of(const Tensor& ids, std::int64_t row) {
  std::set<double> values;
  for (std::int64_t j = 0; j < ids.size(1); ++j) {
    if (ids.at(row * ids.size(1) + j) >= 0.0) values.insert(ids.at(row * ids.size(1) + j));
  }
  return values;
}

// The choice is what is selected, but for what a capacity dropped; where one of the two has more
// experts for each token (all of them run, or all are counted), they are among those.
bool are_of_one_choice(const Tensor& choice, const Tensor& selected) {
  if (choice.size(0) != selected.size(0)) return false;
  if (choice.shape() == selected.shape()) {
    for (std::int64_t i = 0; i < choice.numel(); ++i) {
      if (selected.at(i) >= 0.0 && selected.at(i) != choice.at(i)) return false;
    }
    return true;
  }
  const bool fewer = choice.size(1) < selected.size(1);
  for (std::int64_t t = 0; t < choice.size(0); ++t) {
    const std::set<double> all = row_of(fewer ? selected : choice, t);
    for (const double e : row_of(fewer ? choice : selected, t)) {
      if (!all.contains(e)) return false;
    }
  }
  return true;
}

// By token, the shares of the scores; of their logarithms.
Tensor shares_of(const Tensor& scores, bool logarithms) {
  const Tensor shares = Tensor::empty(scores.shape(), DType::f64, Device::cpu);
  const std::int64_t experts = scores.size(1);
  for (std::int64_t t = 0; t < scores.size(0); ++t) {
    double* const row = shares.write<double>() + t * experts;
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t e = 0; e < experts; ++e) {
      largest = std::fmax(largest, scores.at(t * experts + e));
    }
    double sum = 0.0;
    for (std::int64_t e = 0; e < experts; ++e) {
      const double p = scores.at(t * experts + e);
      row[e] = logarithms ? std::exp(p - largest) : p;
      sum += row[e];
    }
    for (std::int64_t e = 0; e < experts; ++e) row[e] /= sum;
  }
  return shares;
}

}  // namespace

void check_fields(const LayerFixture& fixture, const std::string& label, CheckRow& row) {
  constexpr double kSmoothed = 1e-5;  // a router may keep log p from -infinity
  constexpr double kSum = 1e-9;
  Tape tape({.gradients = false, .rng = Rng{17, 0, 0}});
  std::vector<Var> leaves;
  for (const Tensor& value : fixture.values) leaves.push_back(tape.constant(value));
  Weights weights;
  const Routing r = Layer(fixture.config).forward(fixture.input(leaves, weights)).routing;
  const auto note = [&](bool ok, const char* what) {
    row.note(ok, fmt::format("{}: Routing::{}", label, what));
  };
  const auto here = [](const Tensor& t) { return t.to(Device::cpu); };
  const auto value_of = [&](Var v) { return v.defined() ? here(v.value()) : Tensor(); };
  const Tensor scores = value_of(r.scores);
  const Tensor log_scores = value_of(r.log_scores);
  const Tensor log_normaliser = value_of(r.log_normaliser);
  const Tensor weight = value_of(r.weights);
  const Tensor selected = here(r.selected);
  const Tensor choice = here(r.choice);
  const Tensor scale = here(r.scale);
  if (log_scores.defined()) {
    note(close(shares_of(log_scores, true), shares_of(scores, false), kSmoothed),
         "log_scores are not the logarithms of the scores, but for a number of each token");
  } else {
    note(close(shares_of(scores, false), scores, kSum),
         "scores do not sum to 1 for each token, and there are no log_scores");
  }

  if (choice.defined()) {
    note(are_of_one_choice(choice, selected), "choice is not that of which selected is made");
  }

  const std::int64_t k = selected.size(1);
  for (std::int64_t i = 0; i < selected.numel(); ++i) {
    if (selected.at(i) < 0.0) continue;
    const std::int64_t t = i / k;
    const std::int64_t at = t * scores.size(1) + static_cast<std::int64_t>(selected.at(i));
    const double w = weight.at(i);
    const auto same = [w](double v) { return std::abs(v - w) <= 1e-12 * std::abs(w); };
    // A later choice has scores of its own.
    if (scale.defined() && i % k == 0) {
      note(same(scale.at(i) * scores.at(at)),
           "scale is not in the weights: a token's first is not scale times its score");
    }
    if (log_normaliser.defined()) {
      const double log_p = log_scores.defined() ? log_scores.at(at) : std::log(scores.at(at));
      note(same(std::exp(log_p - log_normaliser.at(t))),
           "log_normaliser is not what divides the scores in the weights");
    }
  }
}

}  // namespace moegrad
