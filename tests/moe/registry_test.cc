#include "moe/registry.h"

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

TEST_CASE("a router and an estimator of one's own are found by name; a name is taken once") {
  RouterEntry router = router_entry("top-k");
  router.name = "my-top-k";
  add_router(router);
  EstimatorEntry estimator = estimator_entry("sparse");
  estimator.name = "my-sparse";
  add_estimator(estimator);
  CHECK(router_entry("my-top-k").summary == router.summary);
  LayerConfig config;
  config.size = {3, 4, 3, 4, 2};
  config.router = "my-top-k";
  config.estimator = "my-sparse";
  const LayerFixture mine = random_fixture(config, 5, true);
  config.router = "top-k";
  config.estimator = "sparse";
  CHECK(run_pass(mine).y.same_bits(run_pass(random_fixture(config, 5, true)).y));

  CHECK(error_of([&] { add_router(router); }) ==
        "[router] 'my-top-k' is there already. Choose another name.");
  CHECK(error_of([&] { add_estimator(estimator); }) ==
        "[estimator] 'my-sparse' is there already. Choose another name.");
  router.name = "no-make";
  router.make = nullptr;
  CHECK(error_of([&] { add_router(router); }) ==
        "[router] an entry without a name or without `make`. Give both.");
  CHECK(error_of([] { router_entry("my-topk"); }) ==
        "[router] no router 'my-topk'. Did you mean 'my-top-k'?");
}

TEST_CASE("every entry says what the documentation prints of it") {
  for (const RouterEntry& e : routers()) {
    CAPTURE(e.name);
    CHECK_FALSE(e.summary.empty());
    CHECK_FALSE(e.source.empty());
    CHECK_FALSE(e.formula.empty());
    CHECK(e.least_active <= e.most_active);
    CHECK((e.claim != Claim::documented || !e.recorded.empty()));
  }
  for (const EstimatorEntry& e : estimators()) {
    CAPTURE(e.name);
    CHECK_FALSE(e.summary.empty());
    CHECK_FALSE(e.source.empty());
    CHECK_FALSE(e.formula.empty());
    CHECK((e.claim != Claim::biased_order || e.traits.order > 0));
    for (const std::string& router : e.routers) CHECK_NOTHROW(router_entry(router));
  }
}
