#include "lab/finetune.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/evaluation.h"
#include "train/loop.h"
#include "train/stored_model.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

TEST_CASE("what is forgotten of the source: losses of the models before and after") {
  const TemporaryFolder folder;
  // Two tasks of one shape with other rules.
  const Task source = make_synthetic(DType::f32, 1, {.train_size = 4096, .test_size = 256});
  const Task target = make_synthetic(DType::f32, 2, {.train_size = 4096, .test_size = 64});
  StudyPlan plan{.base = {},
                 .methods = {read_variant("a:"), read_variant("b: lr=0"), read_variant("c:")},
                 .seeds = 2,
                 .trunk = {{"steps", "200"}}};
  plan.base.task = "synthetic";
  plan.base.steps = 200;
  plan.base.lr = 0.01;
  plan.base.batch = 64;
  plan.base.width = plan.base.hidden = 16;
  plan.base.aux = 0.0;
  for (const PlannedRun& run : trunks_of(plan)) {
    train(run.config, {.out = folder / run.name, .task = &source});
  }
  for (const PlannedRun& run : runs_of(plan, folder.path())) {
    if (run.name.starts_with("c")) continue;
    train(run.config, {.out = folder / run.name, .task = &target});
  }
  const std::vector<ForgettingRow> rows =
      forgetting(plan, folder.path(), {source.test, source.test});
  REQUIRE(rows.size() == 3);
  double before = 0.0;
  for (const char* trunk : {"trunk-s1", "trunk-s2"}) {
    const StoredModel model = load_model(checkpoint_of(folder / trunk));
    before += evaluate(*model.model, model.parameters, source.test).loss / 2;
  }
  CHECK(rows[0].before == doctest::Approx(before));
  CHECK(rows[0].after > before);                    // it has learned another rule
  CHECK(rows[1].after == doctest::Approx(before));  // it has learned nothing
  CHECK(rows[1].judged.difference.pairs == 2);
  CHECK(rows[1].judged.difference.mean == doctest::Approx(rows[1].after - rows[0].after));
  CHECK(std::isnan(rows[2].after));
  CHECK(rows[2].judged.difference.pairs == 0);
  CHECK(to_json(rows[2]).find("\"source_after\":null") != std::string::npos);
}

TEST_CASE("the methods of the study are ones that train") {
  for (const Variant& method : methods_of_finetune()) {
    TrainConfig config;
    apply_settings(config, method.settings);
    LayerConfig layer = config.layer();
    layer.causal = true;
    CHECK_MESSAGE(error_of([&] { const Layer made(layer); }) == "no error", method.name);
  }
}
