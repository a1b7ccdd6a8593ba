#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moegrad {
namespace {

constexpr double kStable = 0.8;  // of wsd

}  // namespace

double Schedule::at(std::int64_t step) const {
  if (step < warmup) return rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (kind == Kind::constant) return rate;
  const std::int64_t steps = std::max<std::int64_t>(1, total - warmup);
  const double t = std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(steps));
  if (kind == Kind::wsd) {
    return rate * (1.0 - (1.0 - floor) * std::max(0.0, (t - kStable) / (1.0 - kStable)));
  }
  return rate * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * t)));
}

}  // namespace moegrad
