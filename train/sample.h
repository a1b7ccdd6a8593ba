#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "train/language_model.h"

namespace moegrad {

struct SampleOptions {
  double temperature = 1.0;  // logits are divided by it; 0: the largest alone
  double top_p = 1.0;  // of the likeliest pieces whose chances reach it (Holtzman et al. 2020)
  std::int64_t bytes = 256;  // to write
  std::uint64_t seed = 1;
};

// The piece that u, uniform in (0, 1), draws from logits [V]. Of equal chances the lower piece is the
// likelier.
std::int32_t drawn_piece(std::span<const double> logits, const SampleOptions& options, double u);

// Writes on from a prompt, piece by piece, of the last of them what fits into `bytes`. Text longer than the model's context is read anew from its
// last half context whenever the context is full. An empty prompt stands for the end of a document,
// a zero byte. `write` is called with each piece, and returns false to end.
void sample_text(const LanguageModel& model, const Parameters& parameters, std::string_view prompt,
                 const SampleOptions& options, const std::function<bool(std::string_view)>& write);

}  // namespace moegrad
