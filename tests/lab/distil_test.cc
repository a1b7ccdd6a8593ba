#include "lab/distil.h"

#include <cmath>
#include <filesystem>
#include <set>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tests/train/small_teacher.h"
#include "train/loop.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::SmallTeacher;
using test::TemporaryFolder;

StudyPlan small_plan(const fs::path& data) {
  StudyPlan plan;
  plan.seeds = 2;
  apply_settings(plan.base, {{"task", "distil"},
                             {"data", data.string()},
                             {"width", "32"},
                             {"heads", "1"},
                             {"hidden", "2"},
                             {"experts", "4"},
                             {"active", "2"},
                             {"layers", "2"},
                             {"activation", "gelu"},
                             {"context", "6"},
                             {"steps", "3"},
                             {"batch", "3"}});
  plan.methods = {{"top-k", {}}, {"half", {{"router", "softmax"}, {"experts", "2"}}}};
  return plan;
}

}  // namespace

TEST_CASE("distil: accuracies by seed, paired text by text") {
  const SmallTeacher small;
  const TemporaryFolder out;
  const StudyPlan plan = small_plan(small.data());
  const Task task = load_task(plan.base);
  const std::vector<PlannedRun> runs = runs_of(plan, out.path());
  REQUIRE(runs.size() == 4);
  CHECK(runs[1].name == "half-s1");
  CHECK(runs[1].config.experts == 2);
  CHECK(runs[2].config.seed == 2);
  std::vector<double> accuracies;
  for (const PlannedRun& run : runs) {
    if (run.name == "half-s2") continue;
    accuracies.push_back(train(run.config, {.out = out / run.name, .task = &task}).test.accuracy());
  }
  const std::vector<DistilRow> rows = compare_students(plan, out.path(), task);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].accuracy == std::vector<double>{accuracies[0], accuracies[2]});
  CHECK(rows[0].mean == doctest::Approx((accuracies[0] + accuracies[2]) / 2.0));
  CHECK(rows[1].accuracy[0] == accuracies[1]);
  CHECK(std::isnan(rows[1].accuracy[1]));  // it was not made
  CHECK(rows[1].guesses[1].p == 1.0);
  CHECK(rows[1].difference.pairs == 1);
  for (const DistilRow& row : rows) {
    // What one alone has right makes the difference.
    const PairedGuesses& g = row.guesses[0];
    CHECK(static_cast<double>(g.only_a - g.only_b) / 6.0 ==
          doctest::Approx(row.accuracy[0] - rows[0].accuracy[0]));
  }
  CHECK(rows[2].student == "teacher");
  CHECK(rows[2].accuracy[0] == rows[2].accuracy[1]);
  CHECK(rows[2].p.size() == 2);
  CHECK(fs::exists(out / "top-k-s1/guesses.safetensors"));
  CHECK(guesses_of_run(out / "top-k-s1", task) == guesses_of_run(out / "top-k-s1", task));
  CHECK(nlohmann::json::parse(to_json(rows[1]))["student"] == "half");
}

TEST_CASE("distil: equal active parameters, but for all") {
  const SmallTeacher small;
  const TrainConfig base = small_plan(small.data()).base;
  std::set<std::string> names;
  for (const Variant& student : distil_students(base)) {
    CAPTURE(student.name);
    TrainConfig config = base;
    apply_settings(config, student.settings);
    names.insert(student.name);
    const std::int64_t two =
        std::int64_t{2} * 2 * (2 * 32 * 2);  // layers, experts, 32 x 2 and 2 x 32
    CHECK(active_parameters(config) == (student.name == "all" ? 2 * two : two));
  }
  CHECK(names.size() == distil_students(base).size());
}

}  // namespace moegrad
