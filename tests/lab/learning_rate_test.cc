#include "lab/learning_rate.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/lab/written_run.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;
using moegrad::test::write_run;

TEST_CASE("each method at its own best rate, paired by seed") {
  const TemporaryFolder folder;
  const std::vector<double> rates = {0.001, 0.002, 0.004};
  const StudyPlan plan{
      .base = {},
      .points = points_of_rates(rates),
      .methods = {read_variant("a:"), read_variant("b:"), read_variant("c:"), read_variant("d:")},
      .seeds = 3};
  CHECK(plan.points[1].name == "lr=0.002");
  CHECK(config_of(plan, plan.points[1], plan.methods[0], 1).lr == 0.002);
  for (int seed = 1; seed <= 3; ++seed) {
    const auto write = [&](const char* method, std::size_t rate, double loss) {
      write_run(folder / run_name(plan.points[rate], method, seed), {.losses = {loss + seed}});
    };
    // At one rate b ends far lower than a; at their best they are the same.
    for (std::size_t r = 0; r < 3; ++r) {
      write("a", r, r == 0 ? 1.0 : 2.0);
      write("b", r, r == 1 ? 1.0 + 0.0001 * seed : 2.0 - static_cast<double>(r));
    }
    write("c", 1, 0.5);
    if (seed != 2) write("c", 0, 0.1);
  }
  const std::vector<CompareRow> rows = compare(plan, folder.path());
  std::vector<BestRate> best = best_rates(plan.methods, rates, rows);
  REQUIRE(best.size() == 4);
  CHECK(best[0].rate == 0.001);
  CHECK(best[0].at_edge);
  CHECK(best[1].rate == 0.004);  // loss 0 there
  CHECK(best[1].judged.difference.mean == doctest::Approx(-1.0));
  CHECK(best[1].judged.verdict == Finding::lower);
  CHECK(best[2].rate == 0.002);  // at 0.001 a seed has not ended
  CHECK(!best[2].at_edge);
  CHECK(best[2].judged.difference.mean == doctest::Approx(-0.5));
  CHECK(std::isnan(best[3].rate));
  CHECK(best[3].judged.verdict == Finding::undecided);
  CHECK(to_json(best[3]).find("\"best_rate\":null") != std::string::npos);

  best = best_rates(plan.methods, {0.001, 0.002}, {rows.begin(), rows.begin() + 8});
  CHECK(best[1].rate == 0.002);
  CHECK(best[1].judged.difference.mean == doctest::Approx(0.0002));
  CHECK(best[1].judged.verdict == Finding::equivalent);
}

TEST_CASE("the methods of the study are ones that train") {
  TrainConfig base;
  base.activation = "swiglu";
  for (const Variant& method : methods_of_size()) {
    TrainConfig config = base;
    apply_settings(config, method.settings);
    LayerConfig layer = config.layer();
    layer.causal = true;
    CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
  }
}
