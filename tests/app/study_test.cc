#include <fmt/format.h>
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

TEST_CASE("study: numbers beyond their bounds, and what is no number") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& study, const std::string& flag,
                           const std::string& value) {
    const Outcome outcome = run(folder, {"study", study, flag + "=" + value});
    CHECK(outcome.code == 2);
    CHECK(outcome.out.empty());
    return outcome.err;
  };
  for (const char* value : {"18446744073709551616", "18446744073709551615", "9223372036854775807",
                            "1000001", "0", "-1", "abc", "1e3", "010x"}) {
    CAPTURE(value);
    for (const std::string flag : {"--draws", "--outcomes"}) {
      CHECK(refused("bias", flag, value) ==
            fmt::format("moegrad: [bias] {} is '{}'. Give a whole number from 1 to 1000000.\n",
                        flag, value));
    }
    CHECK(refused("bias", "--samples", value) ==
          fmt::format("moegrad: [bias] --samples is '{}'. Give a whole number from 2 to 1000000.\n",
                      value));
  }
  CHECK(refused("bias", "--experts", "4,1000000000000") ==
        "moegrad: [bias] --experts is '1000000000000'. Give a whole number from 1 to 65536.\n");
  CHECK(refused("bias", "--active", "2,x") ==
        "moegrad: [bias] --active is 'x'. Give a whole number from 1 to 65536.\n");
  CHECK(refused("bias", "--scale", "0.5,nan") ==
        "moegrad: [bias] --scale is 'nan'. Give a number from 0 to 1000000.\n");
  CHECK(refused("bias", "--seed", "18446744073709551616").find("from 0 to 18446744073709551615") !=
        std::string::npos);
  CHECK(refused("fidelity", "--epochs", "1001").find("from 1 to 1000") != std::string::npos);
  CHECK(refused("fidelity", "--points", "99999999999999999999").find("from 1 to 1000") !=
        std::string::npos);
  CHECK(refused("fidelity", "--batch", "65537").find("from 1 to 65536") != std::string::npos);
  CHECK(refused("fidelity", "--seed", "-1").find("from 0 to 9007199254740991") !=
        std::string::npos);
}
