// Every declared operation of the mixture passes its own check.

#include "moe/dispatch.h"

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "ops/list.h"

using namespace moegrad;

TEST_CASE("every operation of the mixture passes its check on all of its cases") {
  const std::vector<OperationEntry> all = all_declared_operations();
  const std::size_t of_ops = all_operations().size();
  REQUIRE(all.size() > of_ops + 5);
  for (std::size_t i = of_ops; i < all.size(); ++i) {
    const CheckRow row = check_operation(all[i]);
    INFO(all[i].name << ": " << row.reason);
    CHECK(row.verdict == Verdict::pass);
    CHECK(row.cases > 0);
    CHECK(row.max_error < 1e-7);
  }
}
