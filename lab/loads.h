#pragma once

#include <string>
#include <vector>

#include "lab/study_plan.h"

namespace moegrad {

// How even the loads of a layer's E experts are, of shares that sum to 1.
struct Evenness {
  double max_mean = 0.0;  // the largest by the mean: 1 to E
  double entropy = 0.0;   // over log E: 1 where all are even, 0 where one has all
  double dead = 0.0;      // experts with less than a hundredth of an even share
};
Evenness evenness_of(const std::vector<double>& shares);

// Along training: of the batches in each of so many equal parts of the logged steps.
struct LoadRow {
  std::string point;
  std::string method;
  int layer = 0;  // number of the mixture layer, from the input on
  int part = 0;   // from 1 on
  Evenness mean;  // over the part's lines and the seeds
};
// Of the runs that have ended.
std::vector<LoadRow> loads_along(const StudyPlan& plan, const std::filesystem::path& folder,
                                 int parts);
std::string to_json(const LoadRow& row);

// With which the study asks whether balance is the cause: the router's own loss, loss-free, neither.
std::vector<Variant> points_of_balance();
std::vector<Variant> methods_of_balance();

}  // namespace moegrad
