// Every router and estimator of the registry against its claim.

#include "moe/check.h"

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("every router passes its checks") {
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    const CheckRow row = check_router(entry);
    CHECK_MESSAGE(row.verdict == Verdict::pass, row.reason);
    CHECK(row.cases > 15);
    CHECK(row.max_error < 1e-6);
  }
}

TEST_CASE("every estimator passes its checks") {
  for (const EstimatorEntry& entry : estimators()) {
    CAPTURE(entry.name);
    const CheckRow row = check_estimator(entry);
    CHECK_MESSAGE(row.verdict == Verdict::pass, row.reason);
    CHECK(row.cases > 15);
    CHECK(row.max_error < 1e-6);
  }
}
