// Every router of the registry against its claim.

#include <doctest/doctest.h>

#include "moe/checks/check.h"

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
