#include <nlohmann/json.hpp>

#include "tests/app/program.h"

using namespace moegrad::test;
using nlohmann::json;

TEST_CASE("study bias: a table, JSON rows and a plot") {
  const TemporaryFolder folder;
  const std::string out = (folder / "bias").string();
  const Outcome run_of =
      run(folder, {"study", "bias", "--routers", "moesart,top-k", "--experts", "4", "--active", "2",
                   "--scale", "0.5,1.5", "--loss", "linear", "--out", out});
  CHECK(run_of.code == 0);
  CHECK(run_of.out.find("norm ratio") != std::string::npos);
  const json rows = json::parse(moegrad::read_file(folder / "bias/rows.json"));
  REQUIRE(rows.size() == 4);
  for (const char* key :
       {"router", "estimator", "experts", "active", "scale", "loss", "weight_bias_l1", "weight_mse",
        "gradient_bias", "gradient_variance", "gradient_mse", "cosine", "norm_ratio", "evaluations",
        "exact", "outcomes"}) {
    CHECK(rows[0].contains(key));
  }
  CHECK(rows[0]["router"] == "moesart");
  CHECK(rows[0]["exact"] == true);
  CHECK(rows[0]["outcomes"] == 24);
  CHECK(std::filesystem::exists(folder / "bias/plot.svg"));
}

TEST_CASE("study: mistakes are named, with exit code 2") {
  const TemporaryFolder folder;
  const auto refused = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "study");
    const Outcome outcome = run(folder, arguments);
    CHECK(outcome.code == 2);
    return outcome.err;
  };
  CHECK(refused({"bias", "--routers", "moesat"}) ==
        "moegrad: [router] no router 'moesat'. Did you mean 'moesart'?\n");
  CHECK(refused({"bias", "--routers", "moesart", "--active", "1"}) ==
        "moegrad: [study] nothing to measure: [layer] k is 1, too few for router moesart. Use k >= "
        "2.\n");
  CHECK(refused({"fidelity"}) ==
        "moegrad: [study] give --checkpoint FILE or --along-training, one of them.\n");
  CHECK(refused({"bios"}) == "moegrad: [study] there is no command 'bios'. Did you mean 'bias'?\n");
}
