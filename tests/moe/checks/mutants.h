// Breaks the operations on a tape in turn, and expects a check to fail for each.
#pragma once

#include <cstdlib>
#include <span>

#include <doctest/doctest.h>

#include "moe/checks/check.h"

namespace moegrad::test {

inline constexpr Mutation::Kind kKinds[] = {Mutation::Kind::sign,    Mutation::Kind::twice,
                                            Mutation::Kind::dropped, Mutation::Kind::transposed,
                                            Mutation::Kind::rotated, Mutation::Kind::overwrites};

// Breaks each input of each named operation in each way; in quick runs (under sanitizers, where the
// code matters and not the number of mutants) in the first way only.
template <class Run>
void expect_all_killed(const std::vector<std::pair<std::string, int>>& operations, Run run) {
  const bool quick = std::getenv("MOEGRAD_TEST_QUICK") != nullptr;
  const int ways = quick ? 1 : 6;
  int total = 0;
  for (const auto& operation : operations) {
    const auto& name = operation.first;
    const auto& inputs = operation.second;
    for (int input = 0; input < inputs; ++input) {
      int killed = 0;
      for (const Mutation::Kind kind : std::span(kKinds).first(static_cast<std::size_t>(ways))) {
        CAPTURE(name);
        CAPTURE(input);
        CAPTURE(name_of(kind));
        bool applied = false;
        const Mutation mutation{name, kind, input, &applied};
        const Verdict verdict = run(&mutation).verdict;
        // One that never changed a gradient is no mutant: `=` for `+=` where nothing is added.
        if (!applied && kind == Mutation::Kind::sign) break;  // this input gets no gradient here
        if (!applied) continue;
        CHECK(verdict == Verdict::fail);
        ++killed;
      }
      CHECK((killed >= ways - 2 || killed == 0));
      total += killed;
    }
  }
  CHECK(total >= 2 * ways);
}

}  // namespace moegrad::test
