// Proof that the checks of estimators bite: each operation on a layer's tape is broken in turn, and
// the check of the estimator must fail.

#include <doctest/doctest.h>

#include "tests/moe/mutants.h"

using namespace moegrad;
using moegrad::test::expect_all_killed;

TEST_CASE("a broken backward pass of an estimator is seen") {
  for (const EstimatorEntry& entry : estimators()) {
    if (entry.name == "lsh-attention")
      continue;  // attention with another mask, the same operations
    CAPTURE(entry.name);
    std::vector<std::pair<std::string, int>> operations = {
        {"combine", 2}, {"dispatch", 1}, {"expert_outputs", 6}};
    // Those that are one mixture, and what they add to it.
    if (entry.name == "sparse" || entry.name.starts_with("sparsemixer")) {
      operations = {{"mixture", 7}};
    }
    // Weights of 1 have no gradient.
    if (entry.name == "reinforce") operations = {{"mixture", 7}, {"grouped_matmul", 2}};
    if (entry.traits.dense && entry.traits.backward_only) {
      operations = {{"mixture", 7}, {"straight_through_mixture", 10}};
    }
    if (entry.name == "default-ema") operations.emplace_back("matmul", 1);
    if (entry.name == "expert-group") operations = {{"combine_groups", 3}, {"expert_outputs", 6}};
    expect_all_killed(operations, [&](const Mutation* m) { return check_estimator(entry, m); });
  }
}
