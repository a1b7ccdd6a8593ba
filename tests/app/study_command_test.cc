#include <cstdlib>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/app/program.h"

using namespace moegrad::test;
using nlohmann::json;

namespace {

// A variable of the environment, until the end of the block.
class ChangedVariable {
 public:
  ChangedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~ChangedVariable() { before_ ? ::setenv(name_, before_->c_str(), 1) : ::unsetenv(name_); }
  ChangedVariable(const ChangedVariable&) = delete;
  ChangedVariable& operator=(const ChangedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("study bias: a table, JSON rows and a plot") {
  const TemporaryFolder folder;
  const std::string out = (folder / "bias").string();
  const Outcome run_of =
      run(folder, {"study", "bias", "--routers", "moesart,top-k", "--experts", "4", "--active", "2",
                   "--scale", "0.5,1.5", "--loss", "linear", "--out", out});
  CHECK(run_of.code == 0);
  // Columns that say what they compare, and a legend below them and in --help.
  const std::string help = run(folder, {"study", "bias", "--help"}).out;
  for (const char* text :
       {"bias to the dense layer", "bias to its own expected loss", "the textbook's unbiased"}) {
    CHECK(run_of.out.find(text) != std::string::npos);
    CHECK(help.find(text) != std::string::npos);
  }
  CHECK(run_of.out.find("norm ratio to dense") != std::string::npos);
  const json rows = json_lines(folder / "bias/rows.jsonl");
  REQUIRE(rows.size() == 4);
  for (const char* key :
       {"router", "estimator", "experts", "active", "scale", "loss", "weight_bias_l1", "weight_mse",
        "dense_bias", "gradient_variance", "dense_mse", "own_bias", "own_bias_error", "gradient_of",
        "cosine", "norm_ratio", "evaluations", "exact", "outcomes"}) {
    CHECK(rows[0].contains(key));
  }
  CHECK(rows[0]["router"] == "moesart");
  CHECK(rows[0]["exact"] == true);
  CHECK(rows[0]["outcomes"] == 24);
  CHECK(std::filesystem::exists(folder / "bias/plot.svg"));
}

TEST_CASE(
    "study bias: the bias to the own expected loss where it is short, in every row, in none") {
  const TemporaryFolder folder;
  const auto known = [&](const char* outcomes, std::vector<std::string> more) {
    std::vector<std::string> words = {
        "study",      "bias",  "--routers", "moesart",
        "--experts",  "4",     "--active",  "2",
        "--scale",    "1",     "--loss",    "linear",
        "--draws",    "1",     "--out",     (folder / "bias").string(),
        "--outcomes", outcomes};
    words.insert(words.end(), more.begin(), more.end());
    CHECK(run(folder, words).code == 0);
    return json_lines(folder / "bias/rows.jsonl")[0]["own_bias"].is_number();
  };
  CHECK(known("1000", {}));
  CHECK(!known("24", {}));  // as many as there are
  CHECK(known("24", {"--own"}));
  CHECK(!known("1000", {"--no-own"}));
  const Outcome both = run(folder, {"study", "bias", "--own", "--no-own"});
  CHECK(both.code == 2);
  CHECK(both.err.find("--own") != std::string::npos);
  CHECK(run(folder, {"study", "bias", "--own=false"}).code == 2);
}

TEST_CASE("study bias: what is undefined is null, '-', and not in the plot") {
  const TemporaryFolder folder;
  const std::vector<std::string> arguments = {
      "study",     "bias",  "--experts", "4",   "--active", "1",
      "--routers", "top-k", "--scale",   "1e6", "--out",    (folder / "bias").string()};
  const Outcome run_of = run(folder, arguments);
  CHECK(run_of.code == 0);
  CHECK(run_of.err.find("moegrad: ") == std::string::npos);
  CHECK(run_of.err.find("cells") == std::string::npos);
  CHECK(run_of.out.find("nan") == std::string::npos);
  CHECK(run_of.out.find("0.0000        -                -") != std::string::npos);
  const std::string text = moegrad::read_file(folder / "bias/rows.jsonl");
  CHECK(text.find("nan") == std::string::npos);
  const json rows = json_lines(folder / "bias/rows.jsonl");
  REQUIRE(rows.size() == 4);
  for (const json& row : rows) {
    CHECK(row["cosine"].is_null());
    CHECK(row["norm_ratio"].is_null());
    CHECK(row["dense_bias"] == 0.0);
  }
  const std::string svg = moegrad::read_file(folder / "bias/plot.svg");
  CHECK(svg.find("norm ratio") == std::string::npos);
  CHECK(svg.find("standard deviation") != std::string::npos);
}

TEST_CASE("study bias: long work is announced off a terminal, too") {
  const TemporaryFolder folder;
  const Outcome run_of =
      run(folder, {"study", "bias", "--experts", "4", "--active", "2", "--routers", "top-k",
                   "--scale", "1", "--loss", "linear,cubic", "--outcomes", "500000", "--draws", "2",
                   "--out", (folder / "bias").string()});
  CHECK(run_of.code == 0);
  CHECK(run_of.err.find("2 cells, of at most 1e+06 passes through a layer each\n1 of 2 cells\n2 of "
                        "2 cells\n") == 0);
}

TEST_CASE("study: gnuplot reads no settings of the user; where it draws nothing, rows stay") {
  const TemporaryFolder folder;
  const std::string home = (folder / "home").string();
  std::filesystem::create_directory(home);
  moegrad::write_file_atomic(home + "/.gnuplot", "set output '" + home + "/stolen.svg'\n");
  const std::vector<std::string> arguments = {
      "study",     "bias",  "--experts", "4", "--active", "2",
      "--routers", "top-k", "--scale",   "1", "--out",    (folder / "bias").string()};
  {
    const ChangedVariable variable("HOME", home);
    CHECK(run(folder, arguments).code == 0);
  }
  CHECK(!std::filesystem::exists(home + "/stolen.svg"));
  CHECK(moegrad::read_file(folder / "bias/plot.svg").find("</svg>") != std::string::npos);
  std::filesystem::create_symlink("/bin/true", home + "/gnuplot");
  const ChangedVariable variable("PATH", home);
  const Outcome nothing = run(folder, arguments);
  CHECK(nothing.code == 2);
  CHECK(nothing.err == "moegrad: [plot] gnuplot drew nothing of '" +
                           (folder / "bias/plot.gp").string() +
                           "'. Is the program of this name gnuplot?\n");
  CHECK(json_lines(folder / "bias/rows.jsonl").size() == 4);
  CHECK(!std::filesystem::exists(folder / "bias/plot.svg"));
}

TEST_CASE("study: what gnuplot says is told where it fails, and only there") {
  const TemporaryFolder folder;
  const std::string program = (folder / "gnuplot").string();
  const auto run_with = [&](const std::string& script) {
    moegrad::write_file_atomic(program, "#!/bin/sh\n" + script);
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    const ChangedVariable variable("PATH", folder.path().string());
    return run(folder, {"study", "bias", "--experts", "4", "--active", "2", "--routers", "top-k",
                        "--scale", "1", "--out", (folder / "bias").string()});
  };
  const Outcome failed = run_with("echo 'line 7: why' >&2; exit 3\n");
  CHECK(failed.code == 2);
  const std::string not_drawn =
      "moegrad: [plot] gnuplot could not draw '" + (folder / "bias/plot.gp").string() + "' ";
  CHECK(failed.err == not_drawn + "(exit status 3). It says: line 7: why\n");
  CHECK(run_with("kill -9 $$\n").err == not_drawn + "(signal 9). It says nothing.\n");
  const Outcome drawn = run_with("echo 'empty y range' >&2; echo '<svg/>'\n");
  CHECK(drawn.code == 0);
  CHECK(drawn.err.empty());
  CHECK(moegrad::read_file(folder / "bias/plot.svg") == "<svg/>\n");
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
        "moegrad: [study] give --checkpoint PATH or --along-training, one of them.\n");
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
  // Each within its bound, and not their product; the cases are counted before they are made.
  std::string many = "0.5";
  for (int i = 0; i < 20'000; ++i) many += ",1";
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--draws=1000000", "--samples=1000000", "--outcomes=1000000"},
        {"--scale=" + many, "--experts=4" + many.substr(3), "--active=1" + many.substr(3)}}) {
    std::vector<std::string> all = {"study", "bias", "--routers=top-k", "--out",
                                    (folder / "bias").string()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Outcome outcome = run(folder, all);
    CHECK(outcome.code == 2);
    CHECK(outcome.err.find("They may be 1000000000 at most") != std::string::npos);
    CHECK(!std::filesystem::exists(folder / "bias"));
  }
  CHECK(refused("fidelity", "--epochs", "1001").find("from 1 to 1000") != std::string::npos);
  CHECK(refused("fidelity", "--points", "99999999999999999999").find("from 1 to 1000") !=
        std::string::npos);
  CHECK(refused("fidelity", "--batch", "65537").find("from 1 to 65536") != std::string::npos);
  CHECK(refused("fidelity", "--seed", "-1").find("from 0 to 9007199254740991") !=
        std::string::npos);
}
