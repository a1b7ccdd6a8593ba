#include "lab/specialise.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/checkpoint.h"
#include "train/loop.h"
#include "train/run_folder.h"

using namespace moegrad;
using moegrad::test::TemporaryFolder;

TEST_CASE("mutual information of tables by hand") {
  CHECK(mutual_information({{1, 0}, {0, 1}}) == doctest::Approx(std::log(2.0)));
  CHECK(std::abs(mutual_information({{2, 4}, {3, 6}})) < 1e-12);  // independent
  // p = 3/8, 1/8, 1/8, 3/8; both marginals are even.
  const double by_hand = 2 * 0.375 * std::log(1.5) + 2 * 0.125 * std::log(0.5);
  CHECK(mutual_information({{3, 1}, {1, 3}}) == doctest::Approx(by_hand));
  CHECK(mutual_information({{5, 5}, {0, 0}}) == doctest::Approx(0.0));  // a dead expert
  CHECK(entropy({1, 1, 0, 2}) == doctest::Approx(1.5 * std::log(2.0)));
}

TEST_CASE("what choices tell of a class") {
  // Four tokens, two choices each of 4 experts: class 0 has experts 0 and 1, class 1 has 2 and 3.
  const Routes apart{2, {0, 1, 1, 0, 2, 3, 3, -1}};
  const TokenClasses halves{"half", {"a", "b"}, {0, 0, 1, 1}};
  const Telling t = telling_of(apart, 4, halves);
  CHECK(t.choices == Counts{{2, 0}, {2, 0}, {0, 1}, {0, 2}});
  CHECK(t.share == doctest::Approx(1.0));  // the expert says which class
  CHECK(t.by_chance == doctest::Approx(3.0 * 1.0 / (2 * 7)));
  const Telling none = telling_of({1, {0, 1, 0, 1}}, 2, halves);
  CHECK(none.information == doctest::Approx(0.0));
  const Telling one = telling_of({1, {0, 1, 0, 1}}, 2, {"one", {"a", "b"}, {0, 0, 0, 0}});
  CHECK(std::isnan(one.share));
  const Telling unknown = telling_of({1, {0, 1, 0, 1}}, 2, {"half", {"a", "b"}, {0, -1, 1, -1}});
  CHECK(unknown.choices == Counts{{1, 1}, {0, 0}});
}

TEST_CASE("which experts are chosen together") {
  // 0 and 1 together in 2 of 4 tokens; each is in 2: by chance 1.
  const Together t = together_of({2, {0, 1, 1, 0, 2, 3, 3, 2}}, 4);
  CHECK(t.lift == doctest::Approx(2.0));
  CHECK(t.first == 0);
  CHECK(t.second == 1);
  CHECK(t.tokens[0] == std::vector<double>{2, 2, 0, 0});
  CHECK(together_of({1, {0, 1, 1, 0}}, 2).first == -1);
}

TEST_CASE("the part of the last choice that was made before") {
  const Routes last{2, {0, 1, 2, 3, 1, -1}};
  CHECK(overlap(last, last) == 1.0);
  CHECK(overlap({2, {1, 0, 2, 0, 0, 2}}, last) == doctest::Approx((1.0 + 0.5 + 0.0) / 3));
  CHECK(overlap({1, {1, 2, 1}}, last) == doctest::Approx((0.5 + 0.5 + 1.0) / 3));
}

TEST_CASE("checkpoints of a run: the last agrees with itself, the first does not") {
  const TemporaryFolder folder;
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 512, .test_size = 256});
  TrainConfig config;
  config.task = "synthetic";
  config.steps = 60;
  config.batch = 64;
  config.width = config.hidden = 16;
  config.lr = 0.02;
  config.checkpoint_every = config.evaluate_every = 20;
  config.keep = 5;
  train(config, {.out = folder / "run", .task = &task});
  const auto checkpoints = Checkpoints(RunFolder(folder / "run").checkpoints(), 5).list();
  REQUIRE(checkpoints.size() >= 3);
  const auto rows = specialise("run", checkpoints, task.test);
  REQUIRE(rows.size() == checkpoints.size());
  CHECK(rows.back().step == 60);
  CHECK(rows.back().already_chosen == 1.0);
  CHECK(rows.front().step == 20);
  CHECK(rows.front().already_chosen < 1.0);
  CHECK(rows.front().already_chosen > 0.0);
  REQUIRE(rows.back().tellings.size() == 1);
  CHECK(rows.back().tellings[0].of == "class");
  CHECK(rows.back().tellings[0].information > rows.back().tellings[0].by_chance);
  CHECK(to_json(rows.back()).find("\"already_chosen\":1.0") != std::string::npos);
}
