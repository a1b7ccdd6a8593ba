#include "lab/closeness.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/loop.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

namespace {

ClosenessRow closeness(double cosine, double difference) {
  ClosenessRow row;
  row.cosine = cosine;
  row.difference.mean = difference;
  row.difference.pairs = 2;
  return row;
}

}  // namespace

TEST_CASE("rank correlation of closeness and loss, by hand") {
  const ClosenessRow first = closeness(0.1, NAN);  // its difference is 0, whatever is there
  CHECK(rank_correlation({first, closeness(0.5, -1.0), closeness(0.9, -2.0)}) ==
        doctest::Approx(-1.0));
  CHECK(rank_correlation({first, closeness(0.5, 3.0), closeness(0.9, 5.0)}) ==
        doctest::Approx(1.0));
  // Ranks 1 2.5 2.5 4 and 2 1 3 4.
  CHECK(rank_correlation({first, closeness(0.5, -1.0), closeness(0.5, 1.0), closeness(0.9, 2.0)}) ==
        doctest::Approx(3.0 / std::sqrt(4.5 * 5.0)));
  CHECK(std::isnan(rank_correlation({first, closeness(0.5, 1.0), closeness(NAN, 2.0)})));
}

TEST_CASE("closeness in the first method's models, beside each method's own loss") {
  const TemporaryFolder folder;
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 256, .test_size = 64});
  StudyPlan plan{.base = {},
                 .methods = {read_variant("sparse:"), read_variant("dense: estimator=ste-dense"),
                             read_variant("group: router_gradient=expert-group")},
                 .seeds = 2};
  plan.base.task = "synthetic";
  plan.base.steps = 6;
  plan.base.batch = 64;
  plan.base.experts = 4;
  plan.base.width = plan.base.hidden = 8;
  for (const PlannedRun& run : runs_of(plan, folder.path())) {
    train(run.config, {.out = folder / run.name, .task = &task});
  }
  const std::vector<CompareRow> rows = compare(plan, folder.path());
  const auto all = closeness_of(plan, folder.path(), task, rows, 64);
  REQUIRE(all.size() == 3);
  CHECK(all[0].output_error == doctest::Approx(1.0));
  CHECK(all[1].cosine == doctest::Approx(1.0));
  CHECK(all[1].norm_ratio == doctest::Approx(1.0));
  CHECK(all[1].output_error < 1e-6);
  CHECK(all[0].cosine < all[1].cosine);
  CHECK(all[2].output_error != doctest::Approx(1.0));
  CHECK(all[1].difference.mean == rows[1].difference.mean);
  CHECK(to_json(all[1]).find("\"pairs\":2") != std::string::npos);
}

TEST_CASE("the methods of the study are ones that train") {
  for (const Variant& method : methods_of_closeness()) {
    TrainConfig config;
    apply_settings(config, method.settings);
    LayerConfig layer = config.layer();
    layer.causal = true;
    CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
  }
}
