#include "lab/run_figures.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/lab/written_run.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::TemporaryFolder;
using moegrad::test::write_run;

TEST_CASE("what a run ended with: the mean of the last tenth of its evaluations") {
  const TemporaryFolder folder;
  std::vector<double> losses(25, 9.0);
  losses[23] = 1.0;
  losses[24] = 2.0;
  write_run(folder / "r", {.losses = losses});
  const RunFigures f = figures_of(folder / "r");
  CHECK(f.loss == 1.5);
  CHECK(f.step_seconds == 0.5);
  CHECK(f.load == doctest::Approx((1.5 + 1.8) / 2));
  CHECK(std::isnan(figures_of(folder / "none").loss));
}

TEST_CASE("norms before and after clipping") {
  const TemporaryFolder folder;
  write_run(folder / "r", {.losses = {1.0}, .norms = {2.0, 4.0}, .config = R"({"clip": 3})"});
  RunFigures f = figures_of(folder / "r");
  CHECK(f.gradient_norm == 3.0);
  CHECK(f.clipped_norm == 2.5);
  CHECK(f.clipped == 0.5);
  write_run(folder / "r", {.losses = {1.0}, .norms = {2.0, 4.0}, .config = R"({"clip": 0})"});
  f = figures_of(folder / "r");
  CHECK(f.clipped_norm == 3.0);
  CHECK(f.clipped == 0.0);
}

TEST_CASE("a mean over runs, of which one has not ended, is not a number") {
  RunFigures a;
  RunFigures b;
  a.loss = 1.0;
  b.loss = 2.0;
  CHECK(mean_of(std::vector<RunFigures>{a, b}).loss == 1.5);
  b.loss = NAN;
  CHECK(std::isnan(mean_of(std::vector<RunFigures>{a, b}).loss));
}
