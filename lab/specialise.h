#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lab/routes.h"

namespace moegrad {

using Counts = std::vector<std::vector<double>>;

// Sum p_ij log(p_ij / (p_i p_j)) in nats, of counts that are 0 or more.
double mutual_information(const Counts& counts);
// -sum p log p in nats.
double entropy(const std::vector<double>& counts);

// What the choices of a layer tell of a class.
struct Telling {
  std::string of;            // "domain"
  double information = 0.0;  // between the expert of a choice and the class of its token, nats
  double share = 0.0;        // of the entropy of the classes; NaN where that is 0
  // Of as many choices that know nothing of the classes, to first order: (E-1)(C-1) / 2n.
  double by_chance = 0.0;
  std::vector<std::string> classes = {};
  Counts choices = {};  // [expert][class]; left out of rows of more than 16 classes
};
struct Together {
  // Of the two experts that are most often chosen together, relative to chance: the number of tokens
  // with both, by that if each were chosen as often and neither knew of the other.
  double lift = 0.0;
  int first = -1, second = -1;  // -1: k is 1
  Counts tokens = {};           // [expert][expert], with both
};

struct SpecialiseRow {
  std::string run;
  std::int64_t step = 0;
  int layer = 0;
  std::vector<Telling> tellings = {};
  Together together = {};
  // The part of the experts of the last checkpoint that a token has already; 1 of the last.
  double already_chosen = 0.0;
};
std::string to_json(const SpecialiseRow& row);

Counts choices_by_class(const Routes& routes, std::int64_t experts, const TokenClasses& classes);
Telling telling_of(const Routes& routes, std::int64_t experts, const TokenClasses& classes);
Together together_of(const Routes& routes, std::int64_t experts);
// The mean over tokens of the part of a token's experts in `last` that it has in `now`.
double overlap(const Routes& now, const Routes& last);

// Of the checkpoints of a run, on a data set, the first to the last of which it is asked.
std::vector<SpecialiseRow> specialise(const std::string& run,
                                      const std::vector<std::filesystem::path>& checkpoints,
                                      const Dataset& data);

}  // namespace moegrad
