#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moegrad {

// The learning rate by step, counted from 0. While warming up it grows linearly,
// rate (step + 1) / warmup; after that, with t = (step - warmup) / (total - warmup) in [0, 1):
//
//   constant   rate
//   cosine     rate (floor + (1 - floor) (1 + cos(pi t)) / 2)
//   wsd        rate, and from t = 0.8 on linearly to floor rate (warm-up, stable, decay: Hu et al.
//              2024, arXiv:2404.06395): runs of several lengths share all but their ends
struct Schedule {
  enum class Kind { constant, cosine, wsd };
  Kind kind = Kind::constant;
  double rate = 1e-3;
  std::int64_t warmup = 0;
  std::int64_t total = 1;
  double floor = 0.0;

  double at(std::int64_t step) const;
};

}  // namespace moegrad
