// The studies that train: balance, learning-rate, finetune, inference, closeness.

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/app/program.h"

using namespace moegrad::test;
using nlohmann::json;

namespace {

// A study of two seeds on small models.
std::vector<std::string> small_study(const TemporaryFolder& folder, const std::string& name,
                                     std::vector<std::string> more = {}) {
  std::vector<std::string> all = {"study",   name, "--task", "synthetic",
                                  "--seeds", "2",  "--out",  (folder / "study").string()};
  for (const char* setting : {"steps=6", "evaluate_every=3", "experts=4", "width=8", "hidden=8",
                              "log_every=1", "batch=32"}) {
    all.insert(all.end(), {"--set", setting});
  }
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

json rows_of(const TemporaryFolder& folder) { return json_lines(folder / "study/rows.jsonl"); }

// The mean loss of two runs, each on its own test data: the seed draws those of this task.
double own_loss(const TemporaryFolder& folder, const std::string& name) {
  double sum = 0.0;
  for (const char* seed : {"-s1", "-s2"}) {
    const auto result = folder / ("study/runs/" + name + seed) / "result.json";
    sum += json::parse(moegrad::read_file(result))["test_loss"].get<double>();
  }
  return sum / 2;
}

// Rows that have this key.
std::size_t with(const json& rows, const char* key) {
  std::size_t count = 0;
  for (const json& row : rows) count += row.contains(key) ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("study balance: loads along training, differences with each way to balance") {
  const TemporaryFolder folder;
  const std::vector<std::string> two = {
      "--method", "sparse:", "--method", "dense: estimator=ste-dense", "--parts", "3"};
  const Outcome outcome = run(folder, small_study(folder, "balance", two));
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("12 of 12 are done") != std::string::npos);
  CHECK(outcome.out.find("dead experts") != std::string::npos);
  CHECK(outcome.out.find("part 3 of 3") != std::string::npos);
  const json rows = rows_of(folder);
  CHECK(with(rows, "verdict") == 6);
  CHECK(with(rows, "entropy") == 18);
  const json config =
      json::parse(moegrad::read_file(folder / "study/runs/loss-free.dense-s2/config.json"));
  CHECK(config["router"] == "loss-free");
  CHECK(config["estimator"] == "ste-dense");
}

TEST_CASE("study learning-rate: a sweep, and each method at its best") {
  const TemporaryFolder folder;
  const std::vector<std::string> two = {"--rates", "0.01,0.0001", "--method",
                                        "top-k:",  "--method",    "norms: norms_of=ste-dense"};
  const Outcome outcome = run(folder, small_study(folder, "learning-rate", two));
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("after clipping") != std::string::npos);
  CHECK(outcome.out.find("0.01 *") != std::string::npos);
  const json rows = rows_of(folder);
  REQUIRE(rows.size() == 6);
  CHECK(rows[0]["point"] == "lr=0.0001");
  CHECK(rows[5]["method"] == "norms");
  CHECK(rows[5]["best_rate"] == 0.01);
  CHECK(rows[5]["pairs"] == 2);
  // The control has its own gradients, of other norms.
  CHECK(rows[1]["mean"]["gradient_norm"] != rows[0]["mean"]["gradient_norm"]);

  const Outcome own = run(folder, small_study(folder, "learning-rate", {"--method", "a: lr=1"}));
  CHECK(own.code == 2);
  CHECK(own.err ==
        "moegrad: [study] method a sets lr, which this study sweeps. Leave it out, or use "
        "--rates.\n");
}

TEST_CASE("study learning-rate: norms of an estimator with a state are refused") {
  const TemporaryFolder folder;
  const Outcome outcome =
      run(folder, small_study(folder, "learning-rate",
                              {"--rates", "0.01", "--method", "a: norms_of=default-ema"}));
  CHECK(outcome.code == 2);
  CHECK(outcome.err.find("Name an estimator without a state.") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "study"));
}

TEST_CASE("study finetune: from a common source, and what is forgotten of it") {
  const TemporaryFolder folder;
  const std::vector<std::string> two = {"--source", "steps=4",  "--method",
                                        "sparse:",  "--method", "dense: estimator=ste-dense"};
  const Outcome outcome = run(folder, small_study(folder, "finetune", two));
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("6 runs, ") != std::string::npos);
  CHECK(outcome.out.find("source after") != std::string::npos);
  CHECK(with(rows_of(folder), "source_before") == 2);
  for (const json& row : rows_of(folder)) {
    if (!row.contains("source_before")) continue;
    CHECK(row["source_before"].get<double>() ==
          doctest::Approx(own_loss(folder, "trunk")).epsilon(1e-6));
  }
  const json trunk = json::parse(moegrad::read_file(folder / "study/runs/trunk-s2/config.json"));
  CHECK(trunk["steps"] == 4);
  const json run_config =
      json::parse(moegrad::read_file(folder / "study/runs/dense-s2/config.json"));
  CHECK(run_config["steps"] == 6);
  CHECK(run_config["from"] == (folder / "study/runs/trunk-s2").string());

  const Outcome none = run(folder, small_study(folder, "finetune"));
  CHECK(none.code == 2);
  CHECK(none.err.find("no source is given") != std::string::npos);
}

TEST_CASE("study inference: gaps of routers, bits of estimators") {
  const TemporaryFolder folder;
  const std::vector<std::string> two = {"--method", "top-k:", "--method", "moesart: router=moesart",
                                        "--draws",  "2"};
  const Outcome outcome = run(folder, small_study(folder, "inference", two));
  CHECK(outcome.code == 0);
  const json rows = rows_of(folder);
  CHECK(rows[0]["method"] == "top-k");
  CHECK(rows[0]["gap"] == 0.0);
  CHECK(rows[0]["inference"].get<double>() ==
        doctest::Approx(own_loss(folder, "top-k")).epsilon(1e-6));
  CHECK(rows[1]["gap"] != 0.0);
  CHECK(with(rows, "same_inference") > 5);
  for (const json& row : rows) {
    if (row.contains("same_inference")) CHECK(row["same_inference"] == true);
  }
  CHECK(outcome.out.find("the same") != std::string::npos);
}

TEST_CASE("study closeness: cosines beside losses") {
  const TemporaryFolder folder;
  const std::vector<std::string> three = {"--method",
                                          "sparse:",
                                          "--method",
                                          "dense: estimator=ste-dense",
                                          "--method",
                                          "group: estimator=expert-group "
                                          "options.weighted=true"};
  const Outcome outcome = run(folder, small_study(folder, "closeness", three));
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("rank correlation of cosine and difference: ") != std::string::npos);
  const json rows = rows_of(folder);
  CHECK(with(rows, "cosine") == 3);
  CHECK(rows[1]["cosine"].get<double>() == doctest::Approx(1.0));
  CHECK(with(rows, "verdict") == 3);
}

TEST_CASE("studies: --quick is short, --estimate makes nothing") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder, small_study(folder, "learning-rate", {"--estimate"}));
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("70 runs, ") != std::string::npos);
  const Outcome quick =
      run(folder, small_study(folder, "learning-rate", {"--estimate", "--quick"}));
  CHECK(quick.err.find("42 runs, ") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "study/runs"));
}
