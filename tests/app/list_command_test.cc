#include <tuple>

#include <nlohmann/json.hpp>

#include "tests/app/program.h"

using moegrad::test::Outcome;
using moegrad::test::run;
using moegrad::test::TemporaryFolder;
using nlohmann::json;

TEST_CASE("list: four arrays of what there is") {
  const TemporaryFolder folder;
  const std::string file = (folder / "all.json").string();
  const Outcome outcome = run(folder, {"list", "--json", file});
  CHECK(outcome.code == 0);
  const json all = json::parse(moegrad::read_file(file));
  CHECK(all.size() == 4);
  const std::pair<const char*, std::vector<std::string>> wanted[] = {
      {"operations", {"add", "matmul", "straight_through", "dispatch", "grouped_matmul"}},
      {"routers", {"softmax", "top-k", "moesart", "deepseek-v3", "soft-moe", "unordered-set"}},
      {"estimators",
       {"sparse", "ste-dense", "ste-dense-router", "expert-group", "default-ema", "reinmax"}},
      {"tasks", {"vision", "synthetic", "own"}}};
  for (const auto& [kind, names] : wanted) {
    std::vector<std::string> found;
    for (const json& entry : all.at(kind)) {
      for (const char* field : {"name", "summary", "source"}) {
        CHECK_FALSE(entry.at(field).get<std::string>().empty());
      }
      found.push_back(entry.at("name"));
    }
    for (const std::string& name : names) {
      CHECK(std::find(found.begin(), found.end(), name) != found.end());
    }
  }
  const Outcome printed = run(folder, {"list", "--json"});
  CHECK(json::parse(printed.out) == all);
  CHECK(run(folder, {"list"}).out.find("expert-group") != std::string::npos);
}

TEST_CASE("list: the README counts what there is") {
  const TemporaryFolder folder;
  const json all = json::parse(run(folder, {"list", "--json"}).out);
  const std::string readme = moegrad::read_file(std::string(MOEGRAD_SOURCE_DIR) + "/README.md");
  for (const auto& [start, kind, end] :
       {std::tuple("| operations | ", "operations", ","),
        {"| [routers](docs/routers.md) | ", "routers", ":"},
        {"| [estimators](docs/estimators.md) | ", "estimators", ":"}}) {
    const std::string what = kind;
    CAPTURE(what);
    CHECK(readme.find(start + std::to_string(all[kind].size()) + end) != std::string::npos);
  }
}

TEST_CASE("list: the pages of the documentation are what it writes") {
  const TemporaryFolder folder;
  for (const std::string kind : {"routers", "estimators"}) {
    const Outcome outcome = run(folder, {"list", "--markdown", kind});
    CHECK(outcome.code == 0);
    const std::string page = std::string(MOEGRAD_SOURCE_DIR) + "/docs/" + kind + ".md";
    CHECK_MESSAGE(
        outcome.out == moegrad::read_file(page),
        "write it again: moegrad list --markdown " << kind << " > docs/" << kind << ".md");
  }
  CHECK(run(folder, {"list", "--markdown", "tasks"}).err ==
        "moegrad: [list] --markdown is 'tasks'. Give routers or estimators.\n");
}

TEST_CASE("gradcheck: a row for each name") {
  const TemporaryFolder folder;
  const std::string file = (folder / "rows.json").string();
  const Outcome outcome =
      run(folder, {"gradcheck", "softmax", "straight_through", "top-k", "--json", file});
  CHECK(outcome.code == 0);
  CHECK(outcome.out.find("4 checked, 0 not passed") != std::string::npos);
  const json rows = json::parse(moegrad::read_file(file));
  REQUIRE(rows.size() == 4);  // softmax is an operation and a router
  CHECK(rows[0].at("kind") == "operation");
  CHECK(rows[1].at("kind") == "router");
  CHECK(rows[2].at("claim") == "surrogate");
  for (const json& row : rows) {
    CHECK(row.at("verdict") == "pass");
    CHECK(row.at("cases").get<int>() > 2);
    CHECK(row.at("max_error").get<double>() < 1e-6);
    CHECK_FALSE(row.at("oracle").get<std::string>().empty());
    CHECK(row.at("dtype") == "f64, f32");
  }
}

TEST_CASE("gradcheck: where a gradient is dead") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder, {"gradcheck", "relu", "mul", "--json"});
  CHECK(outcome.code == 0);
  const json rows = json::parse(outcome.out);
  CHECK(rows[0].at("verdict") == "pass");
  CHECK(rows[0].at("cases") == 4);
  CHECK(rows[0].at("dead") == 1);  // the one number of a case is negative
  CHECK(rows[0].at("dead_inputs") == json::array({"input 0"}));
  CHECK(rows[1].at("dead") == 0);
  CHECK(rows[1].at("dead_inputs") == json::array());
  const std::string text = run(folder, {"gradcheck", "relu"}).out;
  CHECK(text.find("; dead in 1 of 4 cases: input 0\n") != std::string::npos);
}

TEST_CASE("gradcheck: a name that is none") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder, {"gradcheck", "softmix"});
  CHECK(outcome.code == 2);
  CHECK(outcome.err ==
        "moegrad: [gradcheck] there is no operation, router or estimator 'softmix'. Did you mean "
        "'softmax'?\n");
  CHECK(run(folder, {"gradcheck", "--json", "/nowhere/rows.json", "neg"}).code == 2);
}

TEST_CASE("every command has help with an example, and a version") {
  const TemporaryFolder folder;
  for (const char* command : {"train", "gradcheck", "list", "layer"}) {
    const Outcome help = run(folder, {command, "--help"});
    CHECK(help.code == 0);
    CHECK(help.out.find(std::string("Example:\n  moegrad ") + command) != std::string::npos);
    CHECK(run(folder, {command, "--version"}).out.starts_with("moegrad "));
  }
}
