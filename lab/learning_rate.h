#pragma once

#include <string>
#include <vector>

#include "lab/compare.h"

namespace moegrad {

// Is an estimator better, or is its gradient only larger? Each method at its own best learning rate.
struct BestRate {
  std::string method;
  double rate = 0.0;     // of the lowest mean loss, over the seeds
  bool at_edge = false;  // no rate on its other side was tried
  RunFigures mean;       // there
  Judged judged;         // of the losses there, less those of the first method at its own best
};
// `rows`: those of compare(), whose points are rates. A method without a point at which all seeds have
// ended has the rate NaN.
std::vector<BestRate> best_rates(const std::vector<Variant>& methods,
                                 const std::vector<double>& rates,
                                 const std::vector<CompareRow>& rows, double margin = kMargin);
std::string to_json(const BestRate& row);

// The points of a sweep, from the lowest rate on.
std::vector<Variant> points_of_rates(const std::vector<double>& rates);
// Each dense gradient, and the sparse one with its norms.
std::vector<Variant> methods_of_size();

}  // namespace moegrad
