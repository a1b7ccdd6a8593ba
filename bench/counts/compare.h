#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>

#include <fmt/format.h>

namespace moegrad {

// Instructions of one call, by the name of the case.
using Counts = std::map<std::string, std::uint64_t>;

inline constexpr double kCountTolerance = 0.05;  // of the recorded figure, up or down

// A line for each case that is off by more than the tolerance, is missing or was never recorded;
// empty where all agree. A case that has become faster is off too: its figure is recorded anew, or
// the gain could be lost again unseen.
inline std::string differences(const Counts& recorded, const Counts& measured) {
  std::string text;
  for (const auto& [name, count] : recorded) {
    const auto found = measured.find(name);
    if (found == measured.end()) {
      text += fmt::format("{}: recorded, and no case any more\n", name);
      continue;
    }
    const double change = static_cast<double>(found->second) / static_cast<double>(count) - 1.0;
    if (!(std::abs(change) <= kCountTolerance)) {
      text += fmt::format("{}: {} instructions, recorded were {}: {:+.1f} %\n", name, found->second,
                          count, 100.0 * change);
    }
  }
  for (const auto& [name, count] : measured) {
    if (!recorded.contains(name)) text += fmt::format("{}: not recorded\n", name);
  }
  return text;
}

}  // namespace moegrad
