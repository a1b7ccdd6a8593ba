#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "train/language_model.h"

namespace moegrad {

struct SampleOptions {
  double temperature = 1.0;  // logits are divided by it; 0: the largest alone
  double top_p = 1.0;        // of the likeliest bytes whose chances reach it (Holtzman et al. 2020)
  std::int64_t bytes = 256;  // to write
  std::uint64_t seed = 1;
};

// The byte that u, uniform in (0, 1), draws from logits [256]. Of equal chances the lower byte is
// the likelier.
std::int32_t drawn_byte(std::span<const double> logits, const SampleOptions& options, double u);

// Writes on from a prompt, byte by byte. Text longer than the model's context is read anew from its
// last half context whenever the context is full. An empty prompt stands for the end of a document,
// a zero byte. `write` is called with each byte, and returns false to end.
void sample_text(const LanguageModel& model, const Parameters& parameters, std::string_view prompt,
                 const SampleOptions& options, const std::function<bool(char)>& write);

}  // namespace moegrad
