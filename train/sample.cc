#include "train/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "train/language.h"

namespace moegrad {
namespace {

// Of the draws: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kSampleStream = 0x73616d70'00000000U;

}  // namespace

std::int32_t drawn_byte(std::span<const double> logits, const SampleOptions& options, double u) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t i) { return logits[static_cast<std::size_t>(i)]; };
  std::ranges::stable_sort(order, std::greater<>(), logit);
  if (options.temperature == 0.0) return order.front();
  std::vector<double> chances;
  for (const std::int32_t i : order) {
    chances.push_back(std::exp((logit(i) - logit(order.front())) / options.temperature));
  }
  const double all = std::accumulate(chances.begin(), chances.end(), 0.0);
  double kept = 0.0;
  std::size_t n = 0;
  while (n < chances.size() && (n == 0 || kept < options.top_p * all)) kept += chances[n++];
  double below = 0.0;
  for (std::size_t i = 0; i + 1 < n; ++i) {
    below += chances[i];
    if (u * kept < below) return order[i];
  }
  return order[n - 1];
}

void sample_text(const LanguageModel& model, const Parameters& parameters, std::string_view prompt,
                 const SampleOptions& options, const std::function<bool(char)>& write) {
  const auto context = static_cast<std::size_t>(model.size().context);
  std::string text = prompt.empty() ? std::string(1, '\0') : std::string(prompt);
  LanguageModel::Memory memory;
  std::vector<double> logits;
  const auto read = [&](std::size_t from) {
    for (std::size_t i = from; i < text.size(); ++i) {
      logits = model.next(static_cast<unsigned char>(text[i]), parameters, memory).to_vector();
    }
  };
  const auto begin_anew = [&] {
    memory = {};
    text.erase(0, text.size() - std::min(text.size(), std::max<std::size_t>(1, context / 2)));
    read(0);
  };
  if (text.size() > context) {
    begin_anew();
  } else {
    read(0);
  }
  const Rng rng{options.seed, kSampleStream, 0};
  for (std::int64_t i = 0; i < options.bytes; ++i) {
    const double u = rng.uniform(static_cast<std::uint64_t>(i));
    text += static_cast<char>(drawn_byte(logits, options, u));
    if (!write(text.back())) return;
    if (i + 1 == options.bytes) return;
    if (static_cast<std::size_t>(memory.place) == context) {
      begin_anew();
    } else {
      read(text.size() - 1);
    }
  }
}

}  // namespace moegrad
