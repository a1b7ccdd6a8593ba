// Proof that the checks of estimators bite: each operation on a layer's tape is broken in turn, and
// the check of the estimator must fail.

#include <doctest/doctest.h>

#include "tests/moe/checks/mutants.h"

using namespace moegrad;
using moegrad::test::expect_all_killed;

TEST_CASE("a broken backward pass of an estimator is seen") {
  for (const EstimatorEntry& entry : estimators()) {
    if (entry.name == "lsh-attention")
      continue;  // attention with another mask, the same operations
    CAPTURE(entry.name);
    std::vector<std::pair<std::string, int>> operations = {{"combine", 2}, {"dispatch", 1}};
    const bool dense = entry.traits.dense && entry.traits.backward_only;
    const bool mixes = dense || entry.name == "sparse" || entry.name == "reinforce" ||
                       entry.name.starts_with("sparsemixer");
    operations.emplace_back(mixes ? "mixture" : "expert_outputs", mixes ? 7 : 6);
    if (dense) operations.emplace_back("straight_through_mixture", 10);
    if (entry.name == "ste-dense") operations = {{"dense_backward_mixture", 9}, {"concat", 2}};
    if (entry.name == "attention") operations.emplace_back("straight_through", 2);
    if (entry.name == "default-ema") operations.emplace_back("matmul", 1);
    // Weights of 1 have no gradient.
    if (entry.name == "reinforce") operations.emplace_back("grouped_matmul", 2);
    if (entry.name == "expert-group") operations = {{"combine_groups", 3}, {"expert_outputs", 6}};
    expect_all_killed(operations, [&](const Mutation* m) { return check_estimator(entry, m); });
  }
}
