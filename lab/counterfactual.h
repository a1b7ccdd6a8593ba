#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/dataset.h"
#include "train/stored_model.h"

namespace moegrad {

// Were better routes of equal cost there, and not chosen (arXiv:2605.07260)? In a trained model at
// inference one layer's choice of k experts for a token is replaced by others, the k largest of its
// logits + temperature * Gumbel noise; all else is replayed, and the token's own loss is read.
struct CounterfactualOptions {
  int routes = 16;
  double temperature = 1.0;
  std::uint64_t seed = 1;
};

// Of a token in a layer.
struct TokenRoutes {
  double confidence = 0.0;     // the largest probability that the model gives, with its own route
  double loss = 0.0;           // with its own route
  std::vector<double> others;  // with each of the others; those that are its own route left out
};
// Of layer `layer`, of a model on the CPU. Where outputs are read by other tokens (below the last layer of
// text) one token of each window is replaced, drawn from the seed, so that nothing else changes its loss;
// else each of them. What comes behind the layer is worked out again with all that was decided there.
// Errors: a model that does not tell classes; a router whose choice is not one decision of k experts.
std::vector<TokenRoutes> other_routes(const StoredModel& model, const Dataset& data, int layer,
                                      const CounterfactualOptions& options);

// Of the tokens of a part, by rising confidence.
struct CounterfactualRow {
  std::string run = {};
  std::int64_t step = 0;
  int layer = 0;
  int part = 0;  // from 1 on; 0: of all
  std::int64_t tokens = 0;
  double confidence = 0.0;  // means, from here on
  double loss = 0.0;
  double better_tokens = 0.0;  // the part with a route of lower loss, among those tried
  double better_routes = 0.0;  // the part of the tried routes that have a lower one
  double regret = 0.0;         // loss less that of the best route tried, its own among them
  double change = 0.0;  // loss of a tried route less that of its own; NaN where none was tried
};
// Of all, then of so many parts of (nearly) equal size.
std::vector<CounterfactualRow> rows_by_confidence(std::vector<TokenRoutes> tokens, int parts);
// Of every mixture layer of a run's model.
std::vector<CounterfactualRow> counterfactual(const std::string& run, const StoredModel& model,
                                              const Dataset& data,
                                              const CounterfactualOptions& options, int parts);
std::string to_json(const CounterfactualRow& row);

}  // namespace moegrad
