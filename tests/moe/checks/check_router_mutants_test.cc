// Proof that the checks of routers bite: each operation on a layer's tape is broken in turn, and
// the check of the router must fail.

#include <doctest/doctest.h>

#include "tests/moe/checks/mutants.h"

using namespace moegrad;
using moegrad::test::expect_all_killed;

TEST_CASE("a broken backward pass of a router is seen") {
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    if (entry.name == "hash") continue;  // has no parameters and no gradient
    std::vector<std::pair<std::string, int>> operations = {{"matmul", 2}, {"softmax", 1}};
    if (entry.name != "softmax") operations.emplace_back("take_columns", 1);
    if (entry.name == "moesart") operations.emplace_back("log_softmax", 1);
    if (entry.name == "noisy-top-k") {
      operations.insert(operations.end(), {{"softplus", 1}, {"erf", 1}, {"where", 2}});
    }
    if (entry.name == "x-moe") operations.emplace_back("sqrt", 1);
    if (entry.claim == Claim::unbiased)
      operations = {{"take_columns", 1}, {"log_softmax", 1}, {"exp", 1}};
    if (entry.name == "conditional-bernoulli") operations = {{"sigmoid", 1}, {"softplus", 1}};
    expect_all_killed(operations, [&](const Mutation* m) { return check_router(entry, m); });
  }
}
