#include "lab/compare.h"

#include <cmath>

#include <doctest/doctest.h>

#include "lab/cost.h"
#include "tests/lab/written_run.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;
using moegrad::test::write_run;

TEST_CASE("the usual methods are ones that train") {
  TrainConfig base;
  base.task = "language";
  base.activation = "swiglu";
  base.aux = 0.01;
  for (const Variant& method : usual_methods(base)) {
    TrainConfig config = base;
    apply_settings(config, method.settings);
    LayerConfig layer = config.layer();
    layer.causal = true;
    CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
  }
}

TEST_CASE("rows: seeds of which both have ended, against the first method") {
  const TemporaryFolder folder;
  const StudyPlan plan{.base = {},
                       .methods = {read_variant("a:"), read_variant("b:"), read_variant("c:")}};
  for (int seed = 1; seed <= 4; ++seed) {
    write_run(folder / fmt::format("a-s{}", seed), {.losses = {1.0 + seed}});
    write_run(folder / fmt::format("b-s{}", seed), {.losses = {0.5 + seed + 0.001 * seed}});
    if (seed != 2)
      write_run(folder / fmt::format("c-s{}", seed), {.losses = {1.0 + seed + 1e-4 * seed}});
  }
  const std::vector<CompareRow> rows = compare(plan, folder.path());
  REQUIRE(rows.size() == 3);
  CHECK(rows[1].difference.mean == doctest::Approx(-0.4975));
  CHECK(rows[1].verdict == Finding::lower);
  CHECK(rows[2].difference.pairs == 3);
  CHECK(rows[2].verdict == Finding::equivalent);
  CHECK(to_json(rows[1]).find("\"verdict\":\"lower\"") != std::string::npos);
  CHECK(to_json(rows[2]).find("\"loss\":null") != std::string::npos);
}

TEST_CASE("over a grid: against the first method there, and how that changes") {
  const TemporaryFolder folder;
  const StudyPlan plan{.base = {},
                       .points = grid_of({"k=1,2"}),
                       .methods = {read_variant("a:"), read_variant("b:"), read_variant("all:")},
                       .seeds = 3};
  for (int seed = 1; seed <= 3; ++seed) {
    const double s = seed;
    const auto write = [&](const char* name, double loss) {
      write_run(folder / fmt::format("{}-s{}", name, seed), {.losses = {loss}});
    };
    write("k=1.a", s);
    write("k=1.b", s - 0.5);
    write("k=1.all", s - 1.0);
    write("k=2.a", 2 * s);
    write("k=2.b", 2 * s - 0.2 - 0.01 * s);
    write("k=2.all", 2 * s + 0.1);
  }
  const std::vector<CompareRow> rows = compare(plan, folder.path());
  REQUIRE(rows.size() == 6);
  CHECK(rows[4].point == "k=2");
  CHECK(rows[4].method == "b");
  CHECK(rows[4].difference.mean == doctest::Approx(-0.22));
  CHECK(rows[4].change.mean == doctest::Approx(0.28));
  CHECK(rows[4].change.error == doctest::Approx(0.01 / std::sqrt(3.0)));
  CHECK(rows[1].change.pairs == 0);
  CHECK(rows[1].gap == doctest::Approx(0.5));
  CHECK(rows[2].gap == 1.0);
  CHECK(std::isnan(rows[4].gap));  // all ends higher there: there is no gap to close
  CHECK(to_json(rows[4]).find("\"point\":\"k=2\"") != std::string::npos);
}

TEST_CASE("equal operations: costlier methods once more, with fewer steps") {
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 64, .test_size = 8});
  TrainConfig base;
  base.task = "synthetic";
  base.steps = 100;
  const std::vector<Variant> methods = {read_variant("a:"), read_variant("b: lr=0.5"),
                                        read_variant("dense: estimator=ste-dense")};
  const auto all = with_equal_operations(base, methods, task);
  REQUIRE(all.size() == 4);
  CHECK(all[3].name == "dense@ops");
  TrainConfig dense = base;
  dense.estimator = "ste-dense";
  const double ratio =
      operations_of_step(base, task.shape()) / operations_of_step(dense, task.shape());
  CHECK(ratio < 0.6);
  CHECK(all[3].settings.back() ==
        std::pair<std::string, std::string>("steps", fmt::format("{}", std::llround(100 * ratio))));
}
