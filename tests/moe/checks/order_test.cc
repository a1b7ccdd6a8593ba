// The oracle of stated orders bites: every claim that is one too high, one too low, or of another
// kind fails.

#include <doctest/doctest.h>

#include "moe/checks/check.h"

using namespace moegrad;

namespace {

CheckRow checked(EstimatorEntry entry, int order, Claim claim = Claim::biased_order,
                 bool choice_alone = false,
                 const std::map<std::string, std::string>& options = {}) {
  entry.traits.order = order;
  entry.traits.choice_alone = choice_alone;
  entry.claim = claim;
  CheckRow row;
  row.name = entry.name;
  check_order(entry, options, row);
  return row;
}

}  // namespace

TEST_CASE("the stated order passes, and neither more nor less") {
  for (const char* name : {"st", "reinmax", "sparsemixer"}) {
    const EstimatorEntry& entry = estimator_entry(name);
    for (int order = 1; order <= 3; ++order) {
      CAPTURE(name);
      CAPTURE(order);
      CHECK((checked(entry, order).verdict == Verdict::pass) == (order == entry.traits.order));
    }
    CHECK(checked(entry, entry.traits.order).max_error < 1e-9);
    CHECK(checked(entry, 4).verdict == Verdict::fail);  // no loss of degree 5 to be wrong for
    CHECK(checked(entry, 0).verdict == Verdict::fail);
    CHECK(checked(entry, 0, Claim::unbiased).verdict == Verdict::fail);
  }
}

TEST_CASE("sparsemixer-v2 is of order 3 for the part of the choice, and not for the whole") {
  const EstimatorEntry& entry = estimator_entry("sparsemixer-v2");
  CHECK(checked(entry, 3, Claim::biased_order, true).verdict == Verdict::pass);
  CHECK(checked(entry, 2, Claim::biased_order, true).verdict == Verdict::fail);
  CHECK(checked(entry, 3).verdict == Verdict::fail);
  CHECK(checked(entry, 1).verdict == Verdict::fail);
  // The first version gives the whole and not the part.
  CHECK(checked(estimator_entry("sparsemixer"), 2, Claim::biased_order, true).verdict ==
        Verdict::fail);
}

TEST_CASE("reinmax at another temperature has no order") {
  const EstimatorEntry& entry = estimator_entry("reinmax");
  CHECK(checked(entry, 2, Claim::biased_order, false, {{"temperature", "0.6"}}).verdict ==
        Verdict::fail);
}

TEST_CASE("the score function is unbiased, so it has no degree at which it fails") {
  const EstimatorEntry& entry = estimator_entry("reinforce");
  CHECK(checked(entry, 0, Claim::unbiased).verdict == Verdict::pass);
  CHECK(checked(entry, 2).verdict == Verdict::fail);
}
