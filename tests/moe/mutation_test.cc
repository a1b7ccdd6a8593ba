// Proof that the checks of routers and estimators bite: each operation on a layer's tape is broken
// in turn, and the check of the router or estimator must fail.

#include <cstdlib>
#include <span>

#include <doctest/doctest.h>

#include "moe/check.h"

using namespace moegrad;

namespace {

constexpr Mutation::Kind kKinds[] = {Mutation::Kind::sign,    Mutation::Kind::twice,
                                     Mutation::Kind::dropped, Mutation::Kind::transposed,
                                     Mutation::Kind::rotated, Mutation::Kind::overwrites};

// Breaks each input of each named operation in each way; in quick runs (under sanitizers, where the
// code matters and not the number of mutants) in the first way only.
template <class Run>
void expect_all_killed(const std::vector<std::pair<std::string, int>>& operations, Run run) {
  const bool quick = std::getenv("MOEGRAD_TEST_QUICK") != nullptr;
  const int ways = quick ? 1 : 6;
  int total = 0;
  for (const auto& [name, inputs] : operations) {
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

}  // namespace

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

TEST_CASE("a broken backward pass of an estimator is seen") {
  for (const EstimatorEntry& entry : estimators()) {
    if (entry.name == "lsh-attention")
      continue;  // attention with another mask, the same operations
    CAPTURE(entry.name);
    std::vector<std::pair<std::string, int>> operations = {{"combine", 2}, {"dispatch", 1}};
    if (entry.traits.dense && entry.traits.backward_only) operations = {{"combine_dense", 4}};
    if (entry.name.starts_with("sparsemixer")) operations = {{"combine_dense", 2}, {"dispatch", 1}};
    if (entry.name == "attention") operations = {{"combine_dense", 4}};
    if (entry.name == "default-ema") operations.emplace_back("matmul", 1);
    // Weights of 1 have no gradient.
    if (entry.name == "reinforce") operations.emplace_back("grouped_matmul", 2);
    if (entry.name == "expert-group") operations = {{"combine_groups", 3}};
    expect_all_killed(operations, [&](const Mutation* m) { return check_estimator(entry, m); });
  }
}
