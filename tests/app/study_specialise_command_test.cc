// The studies of trained models: specialise, counterfactual.

#include <nlohmann/json.hpp>

#include "tests/app/program.h"

using namespace moegrad::test;
using nlohmann::json;

namespace {

// A run with a checkpoint every 4 of 12 steps.
std::string trained(const TemporaryFolder& folder) {
  const std::string out = (folder / "run").string();
  const Outcome outcome =
      run(folder, {"train", "synthetic", "--steps", "12", "--checkpoint-every", "4", "--keep", "9",
                   "--experts", "4", "--width", "8", "--hidden", "8", "--out", out});
  REQUIRE(outcome.code == 0);
  return out;
}

json rows_of_report(const TemporaryFolder& folder) {
  return json_lines(folder / "report/rows.jsonl");
}

}  // namespace

TEST_CASE("study specialise: along the checkpoints of a run") {
  const TemporaryFolder folder;
  const std::string model = trained(folder);
  const std::string out = (folder / "report").string();
  const Outcome outcome = run(folder, {"study", "specialise", model, "--out", out});
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("1 of 1 runs are measured") != std::string::npos);
  CHECK(outcome.out.find("tells of class") != std::string::npos);
  CHECK(outcome.out.find("100.0 %") != std::string::npos);
  const json rows = rows_of_report(folder);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["step"] == 4);
  CHECK(rows[2]["already_chosen"] == 1.0);
  CHECK(rows[2]["tells"]["class"]["choices"].size() == 4);
  const Outcome some = run(folder, {"study", "specialise", model, "--out", out, "--quick"});
  CHECK(some.code == 0);
  double choices = 0.0;
  const json fewer = rows_of_report(folder);
  for (const json& expert : fewer[2]["tells"]["class"]["choices"]) {
    for (const json& count : expert) choices += count.get<double>();
  }
  CHECK(choices == 128.0);  // 64 examples, two experts each
}

TEST_CASE("study counterfactual: routes that were not chosen") {
  const TemporaryFolder folder;
  const std::string model = trained(folder);
  const Outcome outcome =
      run(folder, {"study", "counterfactual", model, "--routes", "4", "--parts", "2", "--examples",
                   "50", "--out", (folder / "report").string()});
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("part 2 of 2") != std::string::npos);
  const json rows = rows_of_report(folder);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["tokens"] == 50);
  CHECK(rows[0]["regret"] > 0.0);
  CHECK(rows[1]["confidence"] < rows[2]["confidence"]);
}

TEST_CASE("studies of trained models: mistakes") {
  const TemporaryFolder folder;
  const auto error = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "study");
    const Outcome outcome = run(folder, arguments);
    CHECK(outcome.code == 2);
    return outcome.err;
  };
  CHECK(error({"specialise"}).find("runs is required") != std::string::npos);
  CHECK(error({"counterfactual", (folder / "none").string()}).find("none") != std::string::npos);
  CHECK(error({"specialise", folder.path().string()}).find("has no checkpoint") !=
        std::string::npos);
  CHECK(error({"counterfactual", "x", "--routes", "0"}).find("--routes is '0'") !=
        std::string::npos);
}
