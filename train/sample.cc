#include "train/sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace moegrad {
namespace {

// Of the draws: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kSampleStream = 0x73616d70'00000000U;

}  // namespace

std::int32_t drawn_piece(std::span<const double> logits, const SampleOptions& options, double u) {
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
                 const SampleOptions& options, const std::function<bool(std::string_view)>& write) {
  const auto context = static_cast<std::size_t>(model.size().context);
  std::vector<std::int32_t> text =
      model.pairs().encode(prompt.empty() ? std::string_view("\0", 1) : prompt);
  LanguageModel::Memory memory;
  std::vector<double> logits;
  const auto read = [&](std::size_t from) {
    for (std::size_t i = from; i < text.size(); ++i) {
      logits = model.next(text[i], parameters, memory).to_vector();
    }
  };
  const auto begin_anew = [&] {
    memory = {};
    const std::size_t kept = std::min(text.size(), std::max<std::size_t>(1, context / 2));
    text.erase(text.begin(), text.end() - static_cast<std::ptrdiff_t>(kept));
    read(0);
  };
  if (text.size() > context) {
    begin_anew();
  } else {
    read(0);
  }
  const Rng rng{options.seed, kSampleStream, 0};
  auto left = static_cast<std::size_t>(options.bytes);
  for (std::uint64_t i = 0; left > 0; ++i) {
    text.push_back(drawn_piece(logits, options, rng.uniform(i)));
    const std::string_view piece = model.pairs().text(text.back()).substr(0, left);
    left -= piece.size();
    if (!write(piece) || left == 0) return;
    if (static_cast<std::size_t>(memory.place) == context) {
      begin_anew();
    } else {
      read(text.size() - 1);
    }
  }
}

}  // namespace moegrad
