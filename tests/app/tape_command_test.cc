// Runs the program itself.

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "lab/tape_programs.h"
#include "tests/app/page_data.h"
#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Outcome;
using test::page_data;
using test::run;
using test::TemporaryFolder;

TEST_CASE("moegrad tape: a page of every program, and what it says") {
  const TemporaryFolder folder;
  const std::string out = (folder / "page.html").string();
  for (const SmallProgram& p : small_programs()) {
    const Outcome o = run(folder, {"tape", p.name, "--out", out});
    CHECK(o.code == 0);
    CHECK(o.err.empty());
    const json data = page_data(out);
    CHECK(o.out.starts_with(fmt::format("{} nodes, ", data["nodes"].size())));
    CHECK(o.out.ends_with(" MB, written to " + out + "\n"));
    CHECK(data["text"] == p.text);
  }
}

TEST_CASE("moegrad tape: a layer by its flags; the same flags give the same bytes") {
  const TemporaryFolder folder;
  const std::string out = (folder / "page.html").string();
  std::vector<std::string> command = {"tape", "layer"};
  for (const char* pair : {"--router moesart", "--estimator expert-group", "--form fused",
                           "--tokens 5", "--experts 6", "--width 4", "--hidden 6", "--active 3",
                           "--seed 7", "--option groups=1", "--option lasso=0.5"}) {
    const std::string both = pair;
    command.push_back(both.substr(0, both.find(' ')));
    command.push_back(both.substr(both.find(' ') + 1));
  }
  command.insert(command.end(), {"--out", out});
  REQUIRE(run(folder, command).code == 0);
  const std::string first = read_file(out);
  const json data = page_data(out);
  std::map<std::string, json> shapes;
  for (const json& node : data["nodes"]) shapes[node["name"]] = node["shape"];
  CHECK(shapes["x"] == json{5, 4});
  CHECK(shapes["experts.w1"] == json{6, 4, 6});
  CHECK(shapes["combine weights"] == json{5, 3});
  CHECK(shapes["objective"] == json::array());
  CHECK(first.find("<title>One mixture layer: router moesart, estimator expert-group</title>") !=
        std::string::npos);
  REQUIRE(run(folder, command).code == 0);
  CHECK(read_file(out) == first);
}

TEST_CASE("moegrad tape: mistakes, each with its message and exit code 2, and no page") {
  const TemporaryFolder folder;
  const std::string out = (folder / "page.html").string();
  const auto check = [&](std::vector<std::string> arguments, const std::string& message) {
    arguments.insert(arguments.begin(), "tape");
    arguments.insert(arguments.end(), {"--out", out});
    const Outcome o = run(folder, arguments);
    CHECK(o.err == "moegrad: " + message + "\n");
    CHECK(o.out.empty());
    CHECK(o.code == 2);
    CHECK(!fs::exists(out));
  };
  check({"sofmax"}, "[tape] there is no program 'sofmax'. Did you mean 'softmax'? See --help.");
  check({"softmax", "--router", "switch"},
        "[tape] --router is for the program 'layer', and this is 'softmax'. Leave it out.");
  check({"--form", "fast"}, "[tape] --form is 'fast'. Use fused or written-out.");
  check({"--experts", "65"}, "[tape] --experts is '65'. Give a whole number from 1 to 64.");
  check({"--tokens", "0"}, "[tape] --tokens is '0'. Give a whole number from 1 to 64.");
  check({"--option", "aux"}, "[tape] --option is 'aux'. Give --option name=value.");
  const Outcome unknown = run(folder, {"tape", "--router", "topk", "--out", out});
  CHECK(unknown.code == 2);
  CHECK(unknown.err.find("'top-k'") != std::string::npos);
  const Outcome nowhere = run(folder, {"tape", "twice", "--out", (folder / "no" / "p").string()});
  CHECK(nowhere.code == 2);
  CHECK(!nowhere.err.empty());
}

}  // namespace
}  // namespace moegrad
