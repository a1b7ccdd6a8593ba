#include "lab/loads.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/lab/written_run.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

TEST_CASE("how even loads are") {
  const Evenness even = evenness_of({0.25, 0.25, 0.25, 0.25});
  CHECK(even.max_mean == 1.0);
  CHECK(even.entropy == doctest::Approx(1.0));
  CHECK(even.dead == 0.0);
  const Evenness one = evenness_of({1.0, 0.0, 0.0, 0.0});
  CHECK(one.max_mean == 4.0);
  CHECK(one.entropy == 0.0);
  CHECK(one.dead == 3.0);
  const Evenness two = evenness_of({0.5, 0.5, 0.0, 0.0});
  CHECK(two.entropy == doctest::Approx(0.5));
  CHECK(evenness_of({0.998, 0.002}).dead == 1.0);  // of an even share 0.4 %
  CHECK(evenness_of({0.99, 0.01}).dead == 0.0);
}

TEST_CASE("loads along training: parts of the steps, layer by layer, over seeds") {
  const TemporaryFolder folder;
  StudyPlan plan{.base = {}, .methods = {read_variant("a:"), read_variant("b:")}, .seeds = 3};
  const auto write = [&](int seed, const std::vector<std::string>& loads) {
    const auto path = folder / run_name(plan.points[0], "a", seed);
    moegrad::test::write_run(path, {.losses = {1.0}, .norms = {}, .load = ""});
    std::string lines;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      lines +=
          fmt::format("{{\"kind\":\"step\",\"step\":{},\"layer_loads\":{}}}\n", i + 1, loads[i]);
    }
    write_file_atomic(path / "metrics.jsonl", lines);
  };
  write(1, {"[[1,0],[0.5,0.5]]", "[[1,0],[0.5,0.5]]", "[[0.5,0.5],[1,0]]", "[[0.5,0.5],[1,0]]"});
  write(2, {"[[0.75,0.25],[0.5,0.5]]", "[[0.75,0.25],[0.5,0.5]]", "[[0.5,0.5],[0.5,0.5]]",
            "[[0.5,0.5],[0.5,0.5]]"});
  const std::vector<LoadRow> rows = loads_along(plan, folder.path(), 2);
  REQUIRE(rows.size() == 4);  // b has not ended
  CHECK(rows[0].layer == 0);
  CHECK(rows[0].part == 1);
  CHECK(rows[0].mean.max_mean == doctest::Approx(1.75));
  CHECK(rows[0].mean.dead == doctest::Approx(0.5));
  CHECK(rows[1].part == 2);
  CHECK(rows[1].mean.max_mean == doctest::Approx(1.0));
  CHECK(rows[1].mean.entropy == doctest::Approx(1.0));
  CHECK(rows[3].layer == 1);
  CHECK(rows[3].mean.max_mean == doctest::Approx(1.5));
  CHECK(rows[3].mean.entropy == doctest::Approx(0.5));
  CHECK(to_json(rows[3]).find("\"max_mean\":1.5") != std::string::npos);
}

TEST_CASE("every estimator of the study goes with every way to balance") {
  for (const Variant& point : points_of_balance()) {
    for (const Variant& method : methods_of_balance()) {
      TrainConfig config;
      apply_settings(config, point.settings);
      apply_settings(config, method.settings);
      LayerConfig layer = config.layer();
      layer.causal = true;
      CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
    }
  }
}
