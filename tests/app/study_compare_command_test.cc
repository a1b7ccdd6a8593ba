// `moegrad study compare`: its processes, what it says and what it keeps.

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tensor/folders.h"
#include "tests/app/program.h"

using namespace moegrad::test;
using nlohmann::json;

namespace {

// Two methods, two seeds, 6 steps each.
std::vector<std::string> command(const TemporaryFolder& folder,
                                 std::vector<std::string> more = {}) {
  std::vector<std::string> all = {
      "study",    "compare", "--task",   "synthetic",
      "--seeds",  "2",       "--out",    (folder / "study").string(),
      "--method", "top-k:",  "--method", "dense: estimator=ste-dense options.shared=1"};
  for (const char* setting : {"steps=6", "evaluate_every=3", "experts=4", "width=8", "hidden=8",
                              "log_every=2", "batch=32"}) {
    all.insert(all.end(), {"--set", setting});
  }
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

json rows(const TemporaryFolder& folder) { return json_lines(folder / "study/rows.jsonl"); }

}  // namespace

TEST_CASE("compare: runs paired by seed, a table, rows; done runs are not made again") {
  const TemporaryFolder folder;
  const Outcome first = run(folder, command(folder));
  CHECK(first.code == 0);
  CHECK(first.err.find("4 runs, ") != std::string::npos);
  CHECK(first.err.find("4 of 4 are done") != std::string::npos);
  CHECK(first.out.find("difference") != std::string::npos);
  const json all = rows(folder);
  REQUIRE(all.size() == 2);
  CHECK(all[0]["method"] == "top-k");
  CHECK(all[1]["pairs"] == 2);
  CHECK(all[1]["runs"].size() == 2);
  const double difference = all[1]["runs"][0]["loss"].get<double>() / 2 +
                            all[1]["runs"][1]["loss"].get<double>() / 2 -
                            all[0]["mean"]["loss"].get<double>();
  CHECK(all[1]["difference"].get<double>() == doctest::Approx(difference));
  const json config = json::parse(moegrad::read_file(folder / "study/runs/dense-s2/config.json"));
  CHECK(config["estimator"] == "ste-dense");
  CHECK(config["options"]["shared"] == "1");
  CHECK(config["seed"] == 2);

  const Outcome again = run(folder, command(folder));
  CHECK(again.code == 0);
  CHECK(again.err.find("dense-s2 is there already") != std::string::npos);
  CHECK(rows(folder) == all);

  const Outcome other = run(folder, command(folder, {"--set", "lr=0.5"}));
  CHECK(other.code == 2);
  CHECK(
      other.err.find("holds a run of another configuration: lr is '0.002' there and '0.5' here") !=
      std::string::npos);
}

TEST_CASE("compare --reuse: what another study has finished is linked, what differs is made") {
  const TemporaryFolder folder;
  CHECK(run(folder, command(folder)).code == 0);
  std::vector<std::string> words = command(folder, {"--reuse", (folder / "study").string()});
  *std::ranges::find(words, (folder / "study").string()) = (folder / "other").string();
  *std::ranges::find(words, "dense: estimator=ste-dense options.shared=1") =
      "ste: estimator=ste-dense";
  const Outcome other = run(folder, words);
  CHECK(other.code == 0);
  CHECK(other.err.find("top-k-s2 is that of ") != std::string::npos);
  CHECK(other.err.find("ste-s2 is made") != std::string::npos);  // another configuration
  CHECK(std::filesystem::read_symlink(folder / "other/runs/top-k-s1") ==
        "../../study/runs/top-k-s1");
  CHECK(!std::filesystem::is_symlink(folder / "other/runs/ste-s1"));
  CHECK(json_lines(folder / "other/rows.jsonl")[0]["runs"] == rows(folder)[0]["runs"]);

  // Its result is gone: the run is made here, not there.
  std::filesystem::remove(folder / "study/runs/top-k-s2/result.json");
  const Outcome unfinished = run(folder, words);
  CHECK(unfinished.err.find("top-k-s2 is made") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "study/runs/top-k-s2/result.json"));

  // What it is a link to is gone: made again.
  std::filesystem::remove_all(folder / "study");
  words.resize(words.size() - 2);
  const Outcome alone = run(folder, words);
  CHECK(alone.code == 0);
  CHECK(alone.err.find("top-k-s1 is made") != std::string::npos);
  CHECK(!std::filesystem::is_symlink(folder / "other/runs/top-k-s1"));

  words.insert(words.end(), {"--reuse", (folder / "nowhere").string()});
  const Outcome none = run(folder, words);
  CHECK(none.code == 2);
  CHECK(none.err.find("no folder '" + (folder / "nowhere/runs").string()) != std::string::npos);
}

TEST_CASE("compare --reuse: not of runs that go on from another, nor of damaged ones") {
  const TemporaryFolder folder;
  const auto study = [&](const char* trunk, const char* out, std::vector<std::string> more) {
    std::vector<std::string> words = command(folder, {"--trunk", trunk});
    *std::ranges::find(words, (folder / "study").string()) = (folder / out).string();
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run(folder, words);
    CHECK(outcome.code == 0);
    return outcome.err;
  };
  // The branches have the same configuration, and another trunk: by its path the same.
  study("2", "study", {});
  std::filesystem::rename(folder / "study", folder / "before");
  const std::string other = study("4", "study", {"--reuse", (folder / "before").string()});
  CHECK(other.find("trunk-s1 is made") != std::string::npos);
  CHECK(other.find("top-k-s1 is made") != std::string::npos);

  moegrad::write_file_atomic(folder / "study/runs/trunk-s1/config.json", "{");
  std::filesystem::remove_all(folder / "study/runs/trunk-s2/checkpoints");
  const std::string damaged = study("4", "third", {"--reuse", (folder / "study").string()});
  CHECK(damaged.find("trunk-s1' is not used again: [config]") != std::string::npos);
  CHECK(damaged.find("trunk-s2' is not used again: [model]") != std::string::npos);
  CHECK(damaged.find("trunk-s1 is made") != std::string::npos);
  CHECK(damaged.find("trunk-s2 is made") != std::string::npos);
}

TEST_CASE("compare: runs of other data are not those, nor is the report of another study its own") {
  const TemporaryFolder folder;
  const std::string data = (folder / "own.csv").string();
  const auto write = [&](int period) {
    std::string text = "a,b,label\n";
    for (int i = 0; i < 40; ++i) text += fmt::format("{},{},{}\n", i, i % 7, i / period % 2);
    moegrad::write_file_atomic(data, text);
  };
  write(1);
  std::vector<std::string> words = {"study",    "compare",
                                    "--task",   "own",
                                    "--seeds",  "1",
                                    "--out",    (folder / "study").string(),
                                    "--set",    "data=" + data,
                                    "--set",    "steps=2",
                                    "--set",    "width=8",
                                    "--set",    "hidden=8",
                                    "--method", "top-k:"};
  CHECK(run(folder, words).code == 0);
  CHECK(run(folder, words).code == 0);
  write(2);
  const Outcome other = run(folder, words);
  CHECK(other.code == 2);
  CHECK(other.err.find("holds a run of other data: their checksum is") != std::string::npos);

  const std::string report = moegrad::read_file(folder / "study/report.json");
  words[1] = "learning-rate";
  const Outcome study = run(folder, words);
  CHECK(study.code == 2);
  CHECK(study.err.find("has the report of the study compare, and this is learning-rate") !=
        std::string::npos);
  CHECK(moegrad::read_file(folder / "study/report.json") == report);
}

TEST_CASE("compare: runs that were measured in another way are not those") {
  const TemporaryFolder folder;
  CHECK(run(folder, command(folder)).code == 0);
  for (const auto& [setting, what] :
       {std::pair("evaluate_every=2", "evaluate_every is '3' there and '2' here"),
        {"dropless=true", "dropless is 'false' there and 'true' here"}}) {
    const Outcome other = run(folder, command(folder, {"--set", setting}));
    CHECK(other.code == 2);
    CHECK(other.err.find(what) != std::string::npos);
  }
  // What is only kept may differ.
  CHECK(run(folder, command(folder, {"--set", "keep=5", "--set", "log_every=9"})).code == 0);
}

TEST_CASE("compare: nothing goes on from a trunk that has not ended") {
  const TemporaryFolder folder;
  const std::vector<std::string> trunk = {"--trunk", "4", "--set", "checkpoint_every=1"};
  CHECK(run(folder, command(folder, trunk)).code == 0);
  const auto runs = folder / "study/runs";
  const std::filesystem::path path(runs);
  // Of the first seed the trunk fails, behind a checkpoint.
  std::filesystem::remove(path / "trunk-s1/result.json");
  for (const char* name : {"top-k-s1", "top-k-s2", "dense-s1"}) {
    std::filesystem::remove_all(path / name);
  }
  moegrad::write_file_atomic(path / "trunk-s1/checkpoints/step-00000009.safetensors", "damaged");
  const Outcome outcome = run(folder, command(folder, trunk));
  CHECK(outcome.code == 1);
  CHECK(outcome.err.find("trunk-s1 FAILED (") != std::string::npos);
  CHECK(outcome.err.find("dense-s1 FAILED ('" + (path / "trunk-s1").string() +
                         "' has not ended)") != std::string::npos);
  CHECK(outcome.err.find("top-k-s2 is made") != std::string::npos);
  CHECK(!std::filesystem::exists(path / "top-k-s1"));
  CHECK(rows(folder)[1]["pairs"] == 1);
}

TEST_CASE("compare: from a common trunk") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder, command(folder, {"--trunk", "4", "--jobs", "1"}));
  CHECK(outcome.code == 0);
  const std::string log = moegrad::read_file(folder / "study/runs/dense-s1.log");
  CHECK(log.find("beginning with the parameters of") != std::string::npos);
  CHECK(log.find("drawn anew: mixture.shared.w1") != std::string::npos);
  const json trunk = json::parse(moegrad::read_file(folder / "study/runs/trunk-s1/config.json"));
  CHECK(trunk["steps"] == 4);
  CHECK(trunk["estimator"] == "sparse");
}

TEST_CASE("compare: one that fails stops no other") {
  const TemporaryFolder folder;
  const Outcome outcome = run(
      folder, command(folder, {"--method", "wild: lr=1000000 clip=0 optimiser=sgd momentum=1"}));
  CHECK(outcome.code == 1);
  CHECK(outcome.err.find("wild-s1 FAILED (") != std::string::npos);
  CHECK(outcome.err.find("6 of 6 are done") != std::string::npos);
  const json all = rows(folder);
  REQUIRE(all.size() == 3);
  CHECK(all[1]["pairs"] == 2);
  CHECK(all[2]["pairs"] == 0);
  CHECK(all[2]["mean"]["loss"].is_null());
}

TEST_CASE("compare: stopped, it saves, and goes on the next time") {
  const TemporaryFolder folder;
  const std::vector<std::string> longer = {"--set", "steps=100000", "--set", "checkpoint_every=1"};
  Process process(folder, command(folder, longer));
  const auto file = folder / "study/runs/top-k-s1/checkpoints";
  for (int i = 0; i < 3000 && !std::filesystem::exists(file); ++i) ::usleep(10000);
  process.signal(SIGINT);
  const Outcome stopped = process.wait();
  CHECK(stopped.code == 128 + SIGINT);
  CHECK(stopped.err.find("stopped; the same command goes on") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "study/runs/top-k-s1/result.json"));
  CHECK(std::filesystem::exists(file));
}

TEST_CASE("compare: its runs do not outlive it, however it ends") {
  const TemporaryFolder folder;
  Process process(folder,
                  command(folder, {"--set", "steps=1000000", "--set", "checkpoint_every=1"}));
  const std::filesystem::path runs(folder / "study/runs");
  const auto within_30_s = [&](auto&& of_run) {
    const auto of_both = [&] { return of_run(runs / "top-k-s1") && of_run(runs / "dense-s1"); };
    for (int i = 0; i < 3000 && !of_both(); ++i) ::usleep(10000);
    return of_both();
  };
  REQUIRE(
      within_30_s([](const auto& run) { return std::filesystem::exists(run / "checkpoints"); }));
  CHECK(moegrad::is_in_use(runs / "top-k-s1"));
  process.signal(SIGKILL);
  process.wait();
  CHECK(within_30_s([](const auto& run) {
    return !moegrad::is_in_use(run) &&
           moegrad::read_file(run.string() + ".log").find("stopped after step") !=
               std::string::npos;
  }));
}

TEST_CASE("sweep: every point of a grid, and the difference there") {
  const TemporaryFolder folder;
  std::vector<std::string> arguments =
      command(folder, {"--grid", "k=1,2", "--grid", "batch=16,32"});
  arguments[1] = "sweep";
  const Outcome outcome = run(folder, arguments);
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("16 of 16 are done") != std::string::npos);
  CHECK(outcome.out.find("k=2,batch=32") != std::string::npos);
  CHECK(outcome.out.find("change") != std::string::npos);
  const json all = rows(folder);
  REQUIRE(all.size() == 8);
  CHECK(all[7]["point"] == "k=2,batch=32");
  CHECK(all[7]["change"]["pairs"] == 2);
  const json config =
      json::parse(moegrad::read_file(folder / "study/runs/k=1,batch=16.dense-s1/config.json"));
  CHECK(config["active"] == 1);
  CHECK(config["steps"] == 12);  // as many examples
  CHECK(config["estimator"] == "ste-dense");
}

TEST_CASE("sweep, scale: mistakes") {
  const TemporaryFolder folder;
  const auto error = [&](std::vector<std::string> more) {
    more.insert(more.begin(), "study");
    more.insert(more.end(), {"--task", "synthetic", "--out", (folder / "s").string()});
    const Outcome outcome = run(folder, more);
    CHECK(outcome.code == 2);
    return outcome.err;
  };
  CHECK(error({"sweep"}) == "moegrad: [study] no grid is given. Give --grid.\n");
  CHECK(error({"sweep", "--grid", "k=9,2"}).find("k is 9") != std::string::npos);
  CHECK(error({"scale"}) ==
        "moegrad: [study] the task is 'synthetic', and the sizes are those of a language model. "
        "Give --task language, or use study sweep with points of your own.\n");
  CHECK(!std::filesystem::exists(folder / "s/runs"));
}

TEST_CASE("compare: at equal operations") {
  const TemporaryFolder folder;
  const Outcome outcome = run(folder, command(folder, {"--equal-operations", "--estimate"}));
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("6 runs, ") != std::string::npos);
  CHECK(!std::filesystem::exists(folder / "study/runs"));
}

TEST_CASE("compare: mistakes") {
  const TemporaryFolder folder;
  const auto error = [&](std::vector<std::string> more) {
    std::vector<std::string> all = {"study", "compare", "--out", (folder / "s").string()};
    all.insert(all.end(), more.begin(), more.end());
    const Outcome outcome = run(folder, all);
    CHECK(outcome.code == 2);
    return outcome.err;
  };
  CHECK(error({}) == "moegrad: [study] no task is given. Give --config or --task.\n");
  CHECK(error({"--task", "synthetic", "--method", "a/b: lr=1"}) ==
        "moegrad: [study] 'a/b: lr=1' has no name that a folder can have. Give NAME: key=value "
        "...\n");
  CHECK(error({"--task", "synthetic", "--method", "a: lr"}) ==
        "moegrad: [study] a: 'lr' is no key=value.\n");
  CHECK(
      error({"--task", "synthetic", "--method", "a: rate=1"}).find("there is no setting 'rate'") !=
      std::string::npos);
  CHECK(error({"--task", "synthetic", "--method", "a: router=topk"}).find("router") !=
        std::string::npos);
  CHECK(!std::filesystem::exists(folder / "s/runs"));
}
