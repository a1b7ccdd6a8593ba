#pragma once

#include <vector>

#include "moe/plan.h"

// Selections that the cases of the mixture's operations share: each with an edge of its own.
namespace moegrad {

struct Selection {
  const char* label;
  std::int64_t tokens, choices, experts;
  std::vector<std::int32_t> ids;
  std::int64_t room = 0;  // slots behind the last choice, as a plan on a device has them

  Tensor tensor() const { return Tensor::of<std::int32_t>({tokens, choices}, ids); }
  Plan plan() const {
    const Plan full = make_plan(tensor(), experts);
    std::vector<std::int32_t> numbers(full.table.values<std::int32_t>().begin(),
                                      full.table.values<std::int32_t>().end());
    numbers.resize(numbers.size() + static_cast<std::size_t>(room), -1);
    const Shape shape = {static_cast<std::int64_t>(numbers.size())};
    return {full, Tensor::of<std::int32_t>(shape, numbers)};
  }
};

inline std::vector<Selection> selections() {
  return {
      {"an empty expert", 5, 2, 4, {0, 2, 2, 0, 3, 2, 0, 3, 2, 3}},
      {"all tokens on one expert", 4, 1, 3, {1, 1, 1, 1}},
      {"one token", 1, 2, 3, {2, 0}},
      {"k = E", 3, 2, 2, {0, 1, 1, 0, 0, 1}},
      {"dropped choices", 4, 2, 3, {0, -1, -1, -1, 2, 0, -1, 2}},
      {"room for more choices", 3, 2, 3, {2, -1, 0, 2, -1, -1}, 3},
      {"no tokens", 0, 2, 3, {}},
      {"one of everything", 1, 1, 1, {0}},
  };
}

}  // namespace moegrad
