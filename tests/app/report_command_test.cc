// Runs the program itself.

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tensor/folders.h"
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

Outcome trained(const TemporaryFolder& folder, const std::string& name, const std::string& seed) {
  return run(folder, {"train", "synthetic", "--experts", "4", "--width", "8", "--hidden", "8",
                      "--batch", "512", "--epochs", "1", "--log-every", "4", "--seed", seed,
                      "--out", (folder / name).string()});
}

TEST_CASE("moegrad report: a page of runs, and what it says") {
  const TemporaryFolder folder;
  for (const char* seed : {"1", "2"}) REQUIRE(trained(folder, seed, seed).code == 0);
  const fs::path out = folder / "page.html";
  const Outcome o = run(
      folder, {"report", (folder / "1").string(), (folder / "2").string(), "--out", out.string()});
  CHECK(o.code == 0);
  CHECK(o.err.empty());
  CHECK(o.out.starts_with("2 runs in 1 group, 0.3 MB, written to " + out.string()));
  const json data = page_data(out);
  REQUIRE(data["runs"].size() == 2);
  CHECK(data["runs"][0]["state"] == "finished");
  CHECK(data["runs"][1]["steps"]["loss"].size() == 4);
  CHECK(data["groups"] == json{{{"name", "top-k, sparse"}, {"runs", {0, 1}}}});
  // The same runs give the same bytes; an old page is replaced.
  const std::string first = read_file(out);
  write_file_atomic(out, "old");
  CHECK(run(folder,
            {"report", (folder / "1").string(), (folder / "2").string(), "--out", out.string()})
            .code == 0);
  CHECK(read_file(out) == first);
}

TEST_CASE("moegrad report: the command that it shows makes the same run") {
  const TemporaryFolder folder;
  REQUIRE(trained(folder, "run", "3").code == 0);
  const fs::path out = folder / "page.html";
  REQUIRE(run(folder, {"report", (folder / "run").string(), "--out", out.string()}).code == 0);
  const auto command = page_data(out)["runs"][0]["command"].get<std::string>();
  CHECK(command ==
        "moegrad train synthetic --experts 4 --width 8 --hidden 8 --epochs 1 --batch "
        "512 --seed 3 --log-every 4 --out " +
            (folder / "run").string());
}

TEST_CASE("moegrad report: what a run has not, or another version has, is told; the page is made") {
  const TemporaryFolder folder;
  const fs::path started = folder / "started";
  make_folder(started);
  write_file_atomic(started / "config.json", R"({"task": "synthetic", "colour": "red"})");
  write_file_atomic(started / "metrics.jsonl", "");
  const fs::path out = folder / "page.html";
  const FolderLock lock(started);
  const Outcome o = run(folder, {"report", started.string(), "--out", out.string()});
  CHECK(o.code == 0);
  CHECK(o.err.find(started.string() +
                   ": config.json has 'colour', which this version does not know\n") !=
        std::string::npos);
  CHECK(o.err.find(started.string() + ": metrics.jsonl has no step and no evaluation\n") !=
        std::string::npos);
  CHECK(page_data(out)["runs"][0]["state"] == "going on");
}

TEST_CASE("moegrad report: mistakes, each with its message and exit code 2, and no page") {
  const TemporaryFolder folder;
  const fs::path run_folder = folder / "run";
  make_folder(run_folder);
  write_file_atomic(run_folder / "config.json", R"({"task": "synthetic"})");
  const std::string path = run_folder.string();
  const std::string out = (folder / "page.html").string();
  const auto check = [&](std::vector<std::string> arguments, const std::string& message) {
    arguments.insert(arguments.begin(), "report");
    arguments.insert(arguments.end(), {"--out", out});
    const Outcome o = run(folder, arguments);
    CHECK(o.err == "moegrad: " + message + "\n");
    CHECK(o.out.empty());
    CHECK(o.code == 2);
    CHECK(!fs::exists(out));
  };
  check({}, "[report] RUNS is required. See --help.");
  check({path, path + "/"},
        "[report] '" + path + "' and '" + path + "/' are one folder. Name it once.");
  check({folder.path().string()}, "[report] no config.json of a run in '" + folder.path().string() +
                                      "'. Leave out what moegrad train has not made.");
  check({path, "--texts"},
        "[report] --texts is given, and no run is of the task language. Leave it out.");
  check({"nowhere"},
        "[report] there is no folder 'nowhere'. Give folders of moegrad train or moegrad study.");
  const Outcome inside = run(folder, {"report", path, "--out", path + "/config.json"});
  CHECK(inside.code == 2);
  CHECK(inside.err == "moegrad: [report] '" + path + "/config.json' would change '" + path +
                          "', which this command reads or writes. Give another file.\n");
  CHECK(read_file(run_folder / "config.json") == R"({"task": "synthetic"})");
}

}  // namespace
}  // namespace moegrad
