#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "lab/runs.h"

namespace moegrad {

// What one way to train sets besides what all have in common, by a name that a folder can have.
struct Variant {
  std::string name = {};
  Settings settings = {};
};
// "NAME: key=value key=value", with options of router, estimator and layer as options.KEY. Errors: no
// name, a name that no folder can have, a word without "=", a setting that there is not.
Variant read_variant(std::string_view text);
// Of "k=1,2,4" and "experts=8,16" every combination, "k=1,experts=8" the first; k is the setting
// `active`. An Error for a text without "=", without values, and for a key that is there twice.
std::vector<Variant> grid_of(const std::vector<std::string>& texts);

// Points of a grid x methods x seeds. A method's settings are applied behind a point's, a point's behind
// the base's.
struct StudyPlan {
  TrainConfig base;
  std::vector<Variant> points = {{}};  // one without a name: no grid
  std::vector<Variant> methods = {};   // the first is what the others are compared with
  int seeds = 4;                       // 1, 2, ...: of initial values, order of the data, and draws
  // Of a common trunk for each point and seed, trained by the first method: what it sets besides. Each
  // method then goes on from there, on other data. Empty: each from its own beginning.
  Settings trunk = {};
  std::int64_t most_steps = 0;  // of each run, and of a trunk half as many; 0: as many as it has
};
std::string run_name(const Variant& point, const std::string& method, int seed);
// The runs, trunks first. A point that sets the batch and not the steps gets as many examples as the base:
// steps, warm-up and evaluations are in inverse proportion. An Error for two of one name.
std::vector<PlannedRun> trunks_of(const StudyPlan& plan);
std::vector<PlannedRun> runs_of(const StudyPlan& plan, const std::filesystem::path& folder);
TrainConfig config_of(const StudyPlan& plan, const Variant& point, const Variant& method, int seed);

}  // namespace moegrad
