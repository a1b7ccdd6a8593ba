#include "bench/counts/compare.h"

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("counts: within five per cent all is well") {
  CHECK(differences({{"plan", 1000}, {"mlp", 500}}, {{"plan", 1049}, {"mlp", 476}}).empty());
}

TEST_CASE("counts: a case that is ten per cent slower or faster is named") {
  const Counts recorded = {{"plan", 1000}, {"mlp", 500}};
  CHECK(differences(recorded, {{"plan", 1100}, {"mlp", 500}}) ==
        "plan: 1100 instructions, recorded were 1000: +10.0 %\n");
  CHECK(differences(recorded, {{"plan", 1000}, {"mlp", 450}}) ==
        "mlp: 450 instructions, recorded were 500: -10.0 %\n");
}

TEST_CASE("counts: the cases are those that were recorded") {
  CHECK(differences({{"plan", 1000}}, {{"softmax", 7}}) ==
        "plan: recorded, and no case any more\nsoftmax: not recorded\n");
}
