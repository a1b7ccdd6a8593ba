#include "lab/study_plan.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

TEST_CASE("a variant is a name and settings") {
  const Variant v = read_variant("dense-2:  estimator=ste-dense  options.shared=1 ");
  CHECK(v.name == "dense-2");
  CHECK(v.settings == Settings{{"estimator", "ste-dense"}, {"options.shared", "1"}});
  CHECK(read_variant("top-k:").settings.empty());
  CHECK(error_of([] { read_variant("top-k"); }).find("has no name that a folder can have") !=
        std::string::npos);
  CHECK(error_of([] { read_variant("..: lr=1"); }) != "no error");
}

TEST_CASE("a grid has every combination") {
  const std::vector<Variant> grid = grid_of({"k=1,2", "experts=4,8,16"});
  REQUIRE(grid.size() == 6);
  CHECK(grid[0].name == "k=1,experts=4");
  CHECK(grid[5].name == "k=2,experts=16");
  CHECK(grid[5].settings == Settings{{"active", "2"}, {"experts", "16"}});
  CHECK(error_of([] { grid_of({"k"}); }) ==
        "[study] 'k' is no axis of a grid. Give key=value,value,...");
  CHECK(error_of([] {
          grid_of({"k=1", "k=2"});
        }) == "[study] the grid has 'k' twice. Give it once.");
  CHECK(error_of([] { grid_of({"k=2,2"}); }) ==
        "[study] 'k=2' is there twice. Give each a name of its own.");
  CHECK(error_of([] { grid_of({"rate=1"}); }).find("there is no setting 'rate'") !=
        std::string::npos);
  CHECK(error_of([] { grid_of({"data=a/b"}); }).find("can be no folder's name") !=
        std::string::npos);
}

TEST_CASE("a point's settings come behind the base's, a method's behind the point's") {
  StudyPlan plan{.base = {},
                 .points = {read_variant("p: lr=0.25 experts=4"), read_variant("q: experts=16")},
                 .methods = {read_variant("a:"), read_variant("b: lr=0.5")},
                 .seeds = 1};
  plan.base.lr = 0.125;
  const auto runs = runs_of(plan, "folder");
  REQUIRE(runs.size() == 4);
  CHECK(runs[0].name == "p.a-s1");
  CHECK(runs[0].config.lr == 0.25);
  CHECK(runs[1].config.lr == 0.5);
  CHECK(runs[2].config.lr == 0.125);
  CHECK(runs[3].name == "q.b-s1");
  CHECK(runs[3].config.experts == 16);
  plan.methods.push_back(read_variant("a: lr=1"));
  CHECK(error_of([&] { runs_of(plan, "folder"); }) ==
        "[study] 'a' is there twice. Give each a name of its own.");
}

TEST_CASE("another batch: as many examples") {
  StudyPlan plan{.base = {},
                 .points = {read_variant("small: batch=32"), read_variant("own: batch=32 steps=7"),
                            read_variant("same: experts=4")},
                 .methods = {read_variant("a:")},
                 .seeds = 1};
  plan.base.batch = 128;
  plan.base.steps = 100;
  plan.base.warmup = 10;
  plan.base.evaluate_every = 25;
  const auto runs = runs_of(plan, "folder");
  CHECK(runs[0].config.steps == 400);
  CHECK(runs[0].config.warmup == 40);
  CHECK(runs[0].config.evaluate_every == 100);
  CHECK(runs[1].config.steps == 7);
  CHECK(runs[2].config.steps == 100);
}

TEST_CASE("branches begin with their seed's trunk, on other data") {
  StudyPlan plan{.base = {},
                 .methods = {read_variant("a:"), read_variant("b: lr=0.5")},
                 .seeds = 2,
                 .trunk = {{"steps", "30"}, {"schedule", "constant"}}};
  plan.base.task = "language";
  plan.base.steps = 100;
  const auto trunks = trunks_of(plan);
  REQUIRE(trunks.size() == 2);
  CHECK(trunks[1].name == "trunk-s2");
  CHECK(trunks[1].config.steps == 30);
  CHECK(trunks[1].config.schedule == "constant");
  const auto runs = runs_of(plan, "folder");
  REQUIRE(runs.size() == 4);
  CHECK(runs[3].name == "b-s2");
  CHECK(runs[3].config.from == "folder/trunk-s2");
  CHECK(runs[3].config.seed == runs[2].config.seed);
  CHECK(runs[3].config.seed != trunks[1].config.seed);
  CHECK(runs[3].config.lr == 0.5);
  CHECK(runs[3].config.schedule == "cosine");
  CHECK(runs[3].config.warmup == 0);
  // More seeds leave those there are.
  plan.seeds = 3;
  const auto more = runs_of(plan, "folder");
  CHECK(to_json(more[3].config) == to_json(runs[3].config));
  CHECK(more[5].config.seed != runs[3].config.seed);
  plan.most_steps = 20;
  CHECK(runs_of(plan, "folder")[3].config.steps == 20);
  CHECK(runs_of(plan, "folder")[3].config.evaluate_every == 10);
  CHECK(trunks_of(plan)[0].config.steps == 10);
  plan.trunk.clear();
  CHECK(trunks_of(plan).empty());
  CHECK(runs_of(plan, "folder")[3].config.from.empty());
}

TEST_CASE("a trunk: what a method sets holds, and nothing that is tested was trained on") {
  StudyPlan plan{.base = {},
                 .methods = {read_variant("a:"), read_variant("b: warmup=7")},
                 .trunk = {{"steps", "30"}}};
  for (const TaskInfo& task : tasks()) {
    plan.base.task = task.name;
    const auto runs = runs_of(plan, "folder");
    CHECK(runs[1].config.warmup == 7);
    // Where the seed draws the data, those of another seed have this one's test rows.
    CHECK((runs[0].config.seed == trunks_of(plan)[0].config.seed) == task.drawn);
  }
}

TEST_CASE("methods have names of their own, and the data in common") {
  StudyPlan plan;
  const auto error = [&](std::vector<std::string> methods) {
    plan.methods.clear();
    for (const std::string& text : methods) plan.methods.push_back(read_variant(text));
    return error_of([&] { runs_of(plan, "folder"); });
  };
  CHECK(error({"a: lr=0.1", "b: lr=0.1"}) == "no error");
  CHECK(error({"a: lr=0.1", "a: lr=0.2"}) ==
        "[study] 'a' is there twice. Give each a name of its own.");
  for (const char* setting : {"task=vision", "seed=7", "domains=code", "context=9", "pieces=300",
                              "pieces_from=code", "label=x", "classes=3", "test_share=0.5",
                              "header=yes", "data=d", "test_data=d", "test_examples=9"}) {
    const std::string key = std::string(setting).substr(0, std::string(setting).find('='));
    CHECK(error({"a:", std::string("b: ") + setting}) ==
          "[study] method b sets '" + key +
              "', which all have in common: their losses would be of different data. Leave it out, "
              "or give it to all with --set.");
  }
  CHECK(error({"a:", "b: from=run"}) == "no error");
  CHECK(error({"a:", "trunk:"}) == "no error");
  plan.trunk = {{"steps", "5"}};
  CHECK(error({"a:", "b: from=run"}) != "no error");
  CHECK(error({"a:", "trunk:"}) ==
        "[study] the name 'trunk' is taken. Give each method one of its own.");
  CHECK(error_of([] { read_variant("\xff: lr=1"); }) != "no error");
}
