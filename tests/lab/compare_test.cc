#include "lab/compare.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

namespace {

// A run that has ended, of evaluations with these losses.
void write_run(const std::filesystem::path& path, const std::vector<double>& losses) {
  make_folder(path);
  std::string lines = R"({"kind":"step","step":1,"gradient_norm":2.0})"
                      "\n";
  lines += R"({"kind":"step","step":2,"gradient_norm":4.0})"
           "\n";
  for (std::size_t i = 0; i < losses.size(); ++i) {
    lines +=
        fmt::format("{{\"kind\":\"evaluation\",\"step\":{},\"test_loss\":{}}}\n", i + 1, losses[i]);
  }
  write_file_atomic(path / "metrics.jsonl", lines);
  write_file_atomic(path / "result.json",
                    R"({"steps":10,"train_seconds":5.0,"expert_load":[0.5,0.25,0.25],)"
                    R"("layer_loads":[[0.5,0.25,0.25],[0.2,0.2,0.6]]})");
}

}  // namespace

TEST_CASE("a method is a name and settings") {
  const Method m = read_method("dense-2:  estimator=ste-dense  options.shared=1 ");
  CHECK(m.name == "dense-2");
  CHECK(m.settings == Settings{{"estimator", "ste-dense"}, {"options.shared", "1"}});
  CHECK(read_method("top-k:").settings.empty());
  CHECK(error_of([] { read_method("top-k"); }).find("has no name that a folder can have") !=
        std::string::npos);
  CHECK(error_of([] { read_method("..: lr=1"); }) != "no error");
}

TEST_CASE("the usual methods are ones that train") {
  TrainConfig base;
  base.task = "language";
  base.activation = "swiglu";
  for (const Method& method : usual_methods(base)) {
    TrainConfig config = base;
    apply_settings(config, method.settings);
    LayerConfig layer = config.layer();
    layer.causal = true;
    CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
  }
}

TEST_CASE("branches begin with their seed's trunk, on other data") {
  ComparePlan plan{.base = {},
                   .methods = {read_method("a:"), read_method("b: lr=0.5")},
                   .seeds = 2,
                   .trunk = 30};
  plan.base.steps = 100;
  const auto trunks = trunks_of(plan);
  REQUIRE(trunks.size() == 2);
  CHECK(trunks[1].name == "trunk-s2");
  CHECK(trunks[1].config.steps == 30);
  const auto runs = runs_of(plan, "folder");
  REQUIRE(runs.size() == 4);
  CHECK(runs[3].name == "b-s2");
  CHECK(runs[3].config.from == "folder/trunk-s2");
  CHECK(runs[3].config.seed == runs[2].config.seed);
  CHECK(runs[3].config.seed != trunks[1].config.seed);
  CHECK(runs[3].config.lr == 0.5);
  plan.trunk = 0;
  CHECK(trunks_of(plan).empty());
  CHECK(runs_of(plan, "folder")[3].config.from.empty());
}

TEST_CASE("what a run ended with: the mean of the last tenth of its evaluations") {
  const TemporaryFolder folder;
  std::vector<double> losses(25, 9.0);
  losses[23] = 1.0;
  losses[24] = 2.0;
  write_run(folder / "r", losses);
  const RunFigures f = figures_of(folder / "r");
  CHECK(f.loss == 1.5);
  CHECK(f.gradient_norm == 3.0);
  CHECK(f.step_seconds == 0.5);
  CHECK(f.load == doctest::Approx((1.5 + 1.8) / 2));
  CHECK(std::isnan(figures_of(folder / "none").loss));
}

TEST_CASE("rows: seeds of which both have ended, against the first method") {
  const TemporaryFolder folder;
  const ComparePlan plan{.base = {},
                         .methods = {read_method("a:"), read_method("b:"), read_method("c:")},
                         .seeds = 4,
                         .trunk = 0};
  for (int seed = 1; seed <= 4; ++seed) {
    write_run(folder / fmt::format("a-s{}", seed), {1.0 + seed});
    write_run(folder / fmt::format("b-s{}", seed), {0.5 + seed + 0.001 * seed});
    if (seed != 2) write_run(folder / fmt::format("c-s{}", seed), {1.0 + seed + 1e-4 * seed});
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
