#pragma once

#include <vector>

#include "moe/plan.h"

// Selections that the cases of the mixture's operations share: each with an edge of its own.
namespace moegrad {

struct Selection {
  const char* label;
  std::int64_t tokens, choices, experts;
  std::vector<std::int32_t> ids;

  Tensor tensor() const { return Tensor::of<std::int32_t>({tokens, choices}, ids); }
  Plan plan() const { return make_plan(tensor(), experts); }
};

inline std::vector<Selection> selections() {
  return {
      {"an empty expert", 5, 2, 4, {0, 2, 2, 0, 3, 2, 0, 3, 2, 3}},
      {"all tokens on one expert", 4, 1, 3, {1, 1, 1, 1}},
      {"one token", 1, 2, 3, {2, 0}},
      {"k = E", 3, 2, 2, {0, 1, 1, 0, 0, 1}},
      {"dropped choices", 4, 2, 3, {0, -1, -1, -1, 2, 0, -1, 2}},
      {"no tokens", 0, 2, 3, {}},
      {"one of everything", 1, 1, 1, {0}},
  };
}

}  // namespace moegrad
