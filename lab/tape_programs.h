#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "autograd/parameters.h"
#include "autograd/tape.h"
#include "moe/experts.h"
#include "moe/layer_config.h"

namespace moegrad {

// A program on a tape: what is differentiated, and names of its values.
struct Recorded {
  Var output;
  std::vector<std::pair<Var, std::string>> names;
};

// Small programs for lessons, one idea each.
struct SmallProgram {
  std::string name;
  std::string summary;  // one line
  std::string text;     // what to look at
  std::function<Recorded(Tape&)> record;
};
const std::vector<SmallProgram>& small_programs();

// A mixture layer on a few tokens, f64: L = (1/n) sum over tokens and outputs of y dy, with the
// auxiliary losses, for n samples of each token (1 mostly; Estimator::samples).
struct LayerProgram {
  LayerConfig config;
  std::int64_t tokens = 3;
  std::uint64_t seed = 1;
  Form form = Form::automatic;  // of experts and estimator
};
// Puts its parameters into `parameters`, which must live as long as the tape. Errors: those of
// Layer; no token.
Recorded record_layer(Tape& tape, const LayerProgram& program, Parameters& parameters);

}  // namespace moegrad
