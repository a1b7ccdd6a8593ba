#include "lab/page_data.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "lab/study_report.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/config.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::error_of;
using test::TemporaryFolder;

// Runs, each made of settings and lines of metrics.
class Runs {
 public:
  void add(const Settings& settings, const std::string& metrics = "") {
    TrainConfig config;
    config.task = "synthetic";
    apply_settings(config, settings);
    const fs::path run = folder_ / fmt::format("run{}", paths.size());
    make_folder(run);
    write_file_atomic(run / "config.json", to_json(config));
    write_file_atomic(run / "metrics.jsonl", metrics);
    paths.push_back(run);
  }
  json data() const { return json::parse(page_data(paths).json); }

  std::vector<fs::path> paths;

 private:
  TemporaryFolder folder_;
};

std::string step(int number, const json& values) {
  json line = {{"kind", "step"}, {"step", number}};
  line.update(values);
  return line.dump() + "\n";
}

TEST_CASE("page_data: a study, with what it has shown and the runs that it made") {
  Runs runs;
  for (const char* seed : {"1", "2"}) runs.add({{"seed", seed}});
  const TemporaryFolder folder;
  make_folder(folder / "runs");
  fs::rename(runs.paths[1], folder / "runs/b-s2");
  fs::rename(runs.paths[0], folder / "runs/a-s1");
  make_folder(folder / "runs/nothing");
  const StudyReport report{.study = "compare",
                           .command = "moegrad study compare",
                           .version = "1",
                           .machine = "m",
                           .device = "cpu",
                           .data = "",
                           .legend = "l",
                           .tables = {{{"method"}, {"a"}}},
                           .charts = {{.title = "t", .labels = {"a"}, .series = {{"s", {1.0}}}}}};
  write_file_atomic(study_report_of(folder.path()), to_json(report));
  const PageData page = page_data({folder.path()});
  CHECK(page.studies == 1);
  CHECK(page.runs == 2);
  const json data = json::parse(page.json);
  CHECK(data["studies"][0]["tables"] == json{{{"method"}, {"a"}}});
  CHECK(data["studies"][0]["charts"][0]["series"][0]["values"] == json{1.0});
  CHECK(data["runs"][0]["name"] == (folder / "runs/a-s1").string());
  fs::remove_all(folder / "runs");
  const json alone = json::parse(page_data({folder.path()}).json);
  CHECK(alone["runs"].empty());
  CHECK(alone["studies"].size() == 1);
}

TEST_CASE("page_data: runs that differ by the seed, or by what changes no result, are one group") {
  Runs runs;
  runs.add({{"seed", "1"}});
  runs.add({{"seed", "1"}, {"router", "moesart"}, {"experts", "4"}});
  runs.add({{"seed", "2"}, {"log_every", "7"}});
  runs.add({{"seed", "2"}, {"router", "moesart"}, {"experts", "4"}, {"options.shared", "1"}});
  runs.add({{"seed", "3"}, {"dropless", "true"}});
  const json data = runs.data();
  CHECK(data["differ"] ==
        json{"router", "experts", "seed", "dropless", "log_every", "options.shared"});
  CHECK(data["groups"] ==
        json{{{"name", "top-k, experts 8, dropless false, shared -"}, {"runs", {0, 2}}},
             {{"name", "moesart, experts 4, dropless false, shared -"}, {"runs", {1}}},
             {{"name", "moesart, experts 4, dropless false, shared 1"}, {"runs", {3}}},
             {{"name", "top-k, experts 8, dropless true, shared -"}, {"runs", {4}}}});
  CHECK(page_data(runs.paths).groups == 4);
}

TEST_CASE("page_data: runs whose losses are of other examples are groups of their own") {
  Runs runs;
  runs.add({{"seed", "1"}});
  runs.add({{"seed", "1"}, {"test_examples", "3"}});
  const json data = runs.data();
  CHECK(data["groups"] == json{{{"name", "test_examples 0"}, {"runs", {0}}},
                               {{"name", "test_examples 3"}, {"runs", {1}}}});
  CHECK(page_data(runs.paths).groups == 2);
}

TEST_CASE("page_data: each seed of a group may begin with a run of its own") {
  Runs runs;
  runs.add({{"seed", "5"}, {"from", "trunk-1"}});
  runs.add({{"seed", "6"}, {"from", "trunk-2"}});
  CHECK(runs.data()["groups"] == json{{{"name", "top-k, sparse"}, {"runs", {0, 1}}}});
  CHECK(runs.data()["differ"] == json{"from", "seed"});
  runs.add({{"seed", "5"}});
  CHECK(runs.data()["groups"] == json{{{"name", "from another run"}, {"runs", {0, 1}}},
                                      {{"name", "from -"}, {"runs", {2}}}});
}

TEST_CASE("page_data: one group is named after router and estimator; the same run twice is told") {
  Runs runs;
  runs.add({{"seed", "5"}});
  runs.add({{"seed", "5"}});
  const PageData page = page_data(runs.paths);
  const json data = json::parse(page.json);
  CHECK(data["groups"] == json{{{"name", "top-k, sparse"}, {"runs", {0, 1}}}});
  CHECK(data["differ"] == json::array());
  CHECK(page.notes.back() == runs.paths[1].string() + ": has the configuration and the seed of " +
                                 runs.paths[0].string());
}

TEST_CASE("page_data: runs that ask for the same data and found others are told") {
  Runs runs;
  for (const char* seed : {"1", "2", "3"}) runs.add({{"task", "vision"}, {"seed", seed}});
  runs.add({{"task", "synthetic"}, {"seed", "4"}});  // whose data the seed draws
  runs.add({{"task", "synthetic"}, {"seed", "5"}});
  runs.add({{"task", "own"}, {"data", "a.csv"}});
  runs.add({{"task", "own"}, {"data", "b.csv"}});
  for (const auto& [run, checksum] :
       {std::pair(0, "aa"), {2, "bb"}, {3, "cc"}, {4, "dd"}, {5, "ee"}, {6, "ff"}}) {
    write_file_atomic(runs.paths[static_cast<std::size_t>(run)] / "result.json",
                      fmt::format(R"({{"data": "{}"}})", checksum));
  }
  const std::string all = fmt::format("{}", fmt::join(page_data(runs.paths).notes, "\n"));
  CHECK(all.find(runs.paths[2].string() + ": has other data than " + runs.paths[0].string() +
                 ": their checksum is aa there and bb here") != std::string::npos);
  CHECK(all.find("has other data", all.find("has other data") + 1) == std::string::npos);
}

TEST_CASE("page_data: columns, loads and settings of a run") {
  Runs runs;
  runs.add({}, step(20, {{"loss", 1.23456789}, {"expert_load", {0.123456, 0.876544}}}) +
                   step(40, {{"loss", nullptr}, {"dropped", 3.0}, {"expert_load", {0.5, 0.5}}}) +
                   step(60, {{"loss", 1e-9}, {"expert_load", {1.0}}}));
  const json data = runs.data();
  REQUIRE(data["runs"].size() == 1);
  const json& run = data["runs"][0];
  CHECK(run["state"] == "stopped");
  CHECK(run["step"] == 60);
  CHECK(run["result"].is_null());
  CHECK(run["steps"] == json{{"step", {20, 40, 60}},
                             {"loss", {1.23457, nullptr, 1e-9}},
                             {"dropped", {nullptr, 3, nullptr}},
                             {"load_max_mean", {1.75309, 1, 1}}});
  CHECK(run["loads"] == json{{"step", {20, 40}}, {"layers", {{{0.123, 0.5}, {0.877, 0.5}}}}});
  CHECK(run["evaluations"] == json{{"step", json::array()}});
  CHECK(run["config"]["experts"] == "8");
  CHECK(data["every"] == json{{"steps", 1}, {"evaluations", 1}, {"loads", 1}});
}

TEST_CASE("page_data: the mean of the last tenth of the evaluations") {
  std::string lines;
  for (int i = 1; i <= 21; ++i) {
    lines +=
        json{{"kind", "evaluation"}, {"step", i}, {"test_loss", i}, {"seconds", 1}}.dump() + "\n";
  }
  lines += R"({"kind":"evaluation","step":22,"test_loss":30,"test_accuracy":null})";
  lines += "\n";
  Runs runs;
  runs.add({}, lines);
  CHECK(runs.data()["runs"][0]["late"] == json{{"test_loss", 23.6667}, {"test_accuracy", nullptr}});
}

TEST_CASE("page_data: of long runs lines are left out, at the same places of all") {
  std::string lines;
  const auto most = static_cast<int>(kMostPoints);
  for (int i = 1; i <= 2 * most + 1; ++i) {
    lines += step(i, {{"loss", i}, {"expert_load", {0.5, 0.5}}});
  }
  Runs runs;
  runs.add({}, lines);
  runs.add({{"seed", "2"}}, step(1, {{"loss", 1}}) + step(2, {{"loss", 2}}) +
                                step(3, {{"loss", 3}}) + step(4, {{"loss", 4}}));
  const json data = runs.data();
  CHECK(data["every"]["steps"] == 3);
  CHECK(data["runs"][0]["steps"]["step"].size() == 267);
  CHECK(data["runs"][0]["steps"]["loss"][1] == 4);
  CHECK(data["runs"][1]["steps"]["step"] == json{1, 4});
  CHECK(data["every"]["loads"] == 9);
  CHECK(data["runs"][0]["loads"]["step"].size() == 89);
}

TEST_CASE("page_data: ASCII, whatever the texts are") {
  Runs runs;
  runs.add({{"options.a", "ü\u202e"}});
  const fs::path odd = runs.paths[0].parent_path() / "n\xff\n";
  fs::rename(runs.paths[0], odd);
  const std::string text = page_data({odd}).json;
  CHECK(std::ranges::all_of(text, [](unsigned char c) { return c >= ' ' && c < 127; }));
  const json data = json::parse(text);
  CHECK(data["runs"][0]["name"].get<std::string>().ends_with("/n\\xff\\x0a"));
  CHECK(data["runs"][0]["config"]["options.a"] == "ü\u202e");
}

TEST_CASE("page_data: mistakes") {
  Runs runs;
  runs.add({});
  const fs::path folder = runs.paths[0].parent_path();
  const auto error = [](const std::vector<fs::path>& paths) {
    return error_of([&] { page_data(paths); });
  };
  CHECK(error({}) == "[report] no run is given. Give folders of moegrad train or moegrad study.");
  CHECK(error({runs.paths[0], folder / "none"}) ==
        "[report] there is no folder '" + (folder / "none").string() +
            "'. Give folders of moegrad train or moegrad study.");
  fs::create_directory(folder / "empty");
  const std::string config = runs.paths[0] / "config.json";
  CHECK(error({folder / "empty", runs.paths[0], config}) ==
        "[report] no config.json of a run in '" + (folder / "empty").string() + "', '" + config +
            "'. Leave out what moegrad train has not made.");
  fs::create_symlink(runs.paths[0], folder / "link");
  for (const fs::path& other : {folder / "link", runs.paths[0] / "", folder / "empty/../run0"}) {
    CHECK(error({runs.paths[0], other}) == "[report] '" + runs.paths[0].string() + "' and '" +
                                               other.string() + "' are one folder. Name it once.");
  }
}

}  // namespace
}  // namespace moegrad
