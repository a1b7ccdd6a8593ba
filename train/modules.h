#pragma once

#include <string_view>

#include "moe/router.h"

namespace moegrad {

// The parameters whose names start with `prefix`, as Vars of the tape, under the rest of their
// names. Those that are not trained are constants.
Weights bind(Tape& tape, const Parameters& parameters, std::string_view prefix);

// Modules hold sizes and no numbers: `declare` adds their parameters under prefix + name, in f64,
// and the call takes them as Weights.

// x W + b for "weight" [in, out], uniform within +- sqrt(1 / in), and "bias" [out], zero.
struct Linear {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;

  void declare(std::string_view prefix, Parameters& parameters, const Rng& rng) const;
  // x [N, in] -> [N, out]
  Var operator()(Var x, const Weights& weights) const;
};

// (x - mean) / sqrt(variance + epsilon) scale + shift of each row, for "scale" [width], ones, and
// "shift" [width], zeros.
struct LayerNormModule {
  std::int64_t width = 0;

  void declare(std::string_view prefix, Parameters& parameters) const;
  Var operator()(Var x, const Weights& weights) const;
};

// [B L, H d] as [B H, L, d], for H heads of sequences of L places, and back.
Var split_heads(Var x, std::int64_t length, std::int64_t heads);
Var join_heads(Var x, std::int64_t heads);

}  // namespace moegrad
