#include "lab/inference.h"

#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/evaluation.h"
#include "train/loop.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

namespace {

Task small() { return make_synthetic(DType::f32, 1, {.train_size = 256, .test_size = 600}); }

StudyPlan plan_of_routers() {
  StudyPlan plan{
      .base = {},
      .methods = {read_variant("top-k: router=top-k"), read_variant("moesart: router=moesart"),
                  read_variant("none: router=top-k")},
      .seeds = 2};
  plan.base.task = "synthetic";
  plan.base.steps = 8;
  plan.base.batch = 64;
  plan.base.width = plan.base.hidden = 8;
  plan.base.experts = 4;
  return plan;
}

}  // namespace

TEST_CASE("training and inference: the same for top-k, not for a router that samples") {
  const TemporaryFolder folder;
  const Task task = small();
  const StudyPlan plan = plan_of_routers();
  for (const PlannedRun& run : runs_of(plan, folder.path())) {
    if (run.name.starts_with("none")) continue;
    train(run.config, {.out = folder / run.name, .task = &task});
  }
  const std::vector<GapRow> rows = gaps_of(plan, folder.path(), {task.test, task.test}, 2);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].runs == 2);
  CHECK(rows[0].mean.training == rows[0].mean.inference);
  double evaluated = 0.0;
  for (int seed = 1; seed <= 2; ++seed) {
    const StoredModel model = load_model(checkpoint_of(folder / run_name({}, "top-k", seed)));
    evaluated += evaluate(*model.model, model.parameters, task.test).loss / 2;
  }
  CHECK(rows[0].mean.inference == doctest::Approx(evaluated).epsilon(1e-6));
  CHECK(rows[0].mean.experts_training == doctest::Approx(2.0));
  CHECK(std::abs(rows[1].mean.training - rows[1].mean.inference) > 1e-4);
  CHECK(rows[2].runs == 0);
  CHECK(to_json(rows[2]).find("\"gap\":null") != std::string::npos);
}

TEST_CASE("text: at inference the loss is an evaluation's, also of a router with a capacity") {
  StoredModel stored;
  stored.config.task = "language";
  stored.config.router = "switch";
  stored.config.options["eval-capacity"] = "0.6";  // many choices are dropped
  stored.config.active = 1;
  stored.config.width = 8;
  stored.config.hidden = 4;
  stored.config.heads = 2;
  stored.config.layers = 2;
  stored.config.experts = 4;
  stored.task = {.inputs = 101, .ids = true, .targets = {{.name = "byte", .classes = 256}}};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f32);
  Dataset data{.x = Tensor::empty({45, 101}, DType::i32, Device::cpu),
               .labels = Tensor::zeros({45}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < data.x.numel(); ++i) {
    data.x.write<std::int32_t>()[i] = static_cast<std::int32_t>(i * i % 251);
  }
  const double evaluated = evaluate(*stored.model, stored.parameters, data).loss;
  CHECK(mode_gap(stored, data, 1).inference == doctest::Approx(evaluated).epsilon(1e-9));
  Tape tape(Tape::Options{.gradients = false});  // one pass of all drops others
  const Pass pass = stored.model->forward(tape, {.x = data.x, .labels = data.labels, .ids = {}},
                                          stored.parameters, {.training = false});
  const double together = loss_of(stored.task.targets[0], pass.predictions[0]).value().item();
  CHECK(std::abs(together - evaluated) > 1e-6);
}

TEST_CASE("a target that few rows have counts by those, in whatever batch they are") {
  const TemporaryFolder folder;
  Task task = make_synthetic(DType::f32, 1, {.train_size = 256, .test_size = 512 + 400});
  for (Dataset* const data : {&task.train, &task.test}) {
    const std::int64_t rows = data->x.size(0);
    const Tensor both = data->labels.like({rows, 2});
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int32_t label = data->labels.data<std::int32_t>()[i];
      both.write<std::int32_t>()[2 * i] = label;
      // Of few rows of the first pass, of all of the second.
      const bool is_known = i < 100 ? label < 2 : i >= 512 || rows == 256;
      both.write<std::int32_t>()[2 * i + 1] = is_known ? label : -1;
    }
    data->labels = both;
  }
  task.targets.push_back(task.targets.front());
  task.targets[1].name = "some";
  task.targets[1].partial = true;
  const StudyPlan plan = plan_of_routers();
  const TrainConfig config = config_of(plan, {}, plan.methods.front(), 1);
  const double evaluated = train(config, {.out = folder / "run", .task = &task}).test.loss;
  const ModeGap gap = mode_gap(load_model(checkpoint_of(folder / "run")), task.test, 2);
  CHECK(gap.inference == doctest::Approx(evaluated).epsilon(1e-6));
  CHECK(gap.training == doctest::Approx(evaluated).epsilon(1e-6));
}

TEST_CASE("backward-only estimators change no bit; one that adds to the output does") {
  const TemporaryFolder folder;
  const Task task = small();
  StudyPlan plan = plan_of_routers();
  plan.seeds = 1;
  const PlannedRun run = runs_of(plan, folder.path()).front();
  train(run.config, {.out = folder / run.name, .task = &task});
  const StoredModel model = load_model(checkpoint_of(folder / run.name));
  const std::vector<BitsRow> rows = bits_of_estimators(model, Batches(task.test, 64).get(0));
  CHECK(rows.size() > 5);
  for (const char* name : {"ste-dense", "expert-group", "default-ema"}) {
    CHECK(std::ranges::find(rows, name, &BitsRow::estimator) != rows.end());
  }
  for (const BitsRow& row : rows) {
    CHECK_MESSAGE(row.backward_only == row.same_training, row.estimator);
    CHECK_MESSAGE(row.same_inference, row.estimator);
    if (row.same_training) CHECK(row.training == 0.0);
  }
}

TEST_CASE("every router that the base can be trained with") {
  TrainConfig base;
  base.task = "synthetic";
  base.aux = 0.01;
  std::vector<std::string> left_out;
  const std::vector<Variant> all = every_router(base, small().shape(), left_out);
  CHECK(all.front().name == "top-k");
  CHECK(all.size() > 20);
  const auto found = std::ranges::find(all, "switch", &Variant::name);
  REQUIRE(found != all.end());
  CHECK(found->settings == Settings{{"router", "switch"}, {"aux", "-1"}, {"active", "1"}});
  CHECK(std::ranges::find(all, "sparsemixer", &Variant::name)->settings.back() ==
        std::pair<std::string, std::string>("estimator", "sparsemixer"));
  for (const Variant& variant : all) {
    TrainConfig config = base;
    apply_settings(config, variant.settings);
    CHECK_MESSAGE(error_of([&] { make_model(small().shape(), config); }) == "no error",
                  variant.name);
  }
}
