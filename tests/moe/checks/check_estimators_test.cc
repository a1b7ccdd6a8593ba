// Every estimator of the registry against its claim.

#include <doctest/doctest.h>

#include "moe/checks/check.h"

using namespace moegrad;

TEST_CASE("every estimator passes its checks") {
  for (const EstimatorEntry& entry : estimators()) {
    CAPTURE(entry.name);
    const CheckRow row = check_estimator(entry);
    CHECK_MESSAGE(row.verdict == Verdict::pass, row.reason);
    CHECK(row.cases > 15);
    CHECK(row.max_error < 1e-6);
  }
}
