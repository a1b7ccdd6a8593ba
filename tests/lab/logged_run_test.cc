#include "lab/logged_run.h"

#include <cmath>
#include <filesystem>
#include <optional>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/loop.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::error_of;
using test::TemporaryFolder;
using Strings = std::vector<std::string>;

// A folder with a configuration, and what else is written into it.
class Folder {
 public:
  explicit Folder(const TrainConfig& config = config_of("synthetic")) : folder_(files_ / "run") {
    make_folder(folder_.path());
    write("config.json", to_json(config));
    write("metrics.jsonl", R"({"kind":"step","step":20,"loss":1.5})"
                           "\n");
  }
  static TrainConfig config_of(const std::string& task) {
    TrainConfig config;
    config.task = task;
    return config;
  }
  void write(const std::string& name, const std::string& text) const {
    write_file_atomic(folder_.path() / name, text);
  }
  // Its configuration with the values of another object.
  void change_config(const json& changes) const {
    json object = json::parse(read_file(folder_.config()));
    object.update(changes);
    write("config.json", object.dump());
  }
  const fs::path& path() const { return folder_.path(); }
  LoggedRun run() const { return read_run(path()); }

 private:
  TemporaryFolder files_;
  RunFolder folder_;
};

TEST_CASE("read_run: what training has written, without a note") {
  const TemporaryFolder folder;
  TrainConfig config = Folder::config_of("synthetic");
  apply_settings(config, {{"router", "switch"},
                          {"active", "1"},
                          {"experts", "4"},
                          {"width", "8"},
                          {"hidden", "8"},
                          {"batch", "32"},
                          {"epochs", "1"},
                          {"log_every", "2"},
                          {"options.shared", "1"}});
  const Task task = make_synthetic(DType::f32, 3, {.train_size = 320, .test_size = 100});
  const TrainResult result = train(config, {.out = folder / "run", .task = &task});
  const LoggedRun run = read_run(folder / "run");
  CHECK(run.notes == Strings{});
  CHECK(run.name == (folder / "run").string());
  CHECK(run.state == LoggedRun::State::finished);
  CHECK(run.last_step() == 10);
  CHECK(run.steps.step == std::vector<std::int64_t>{2, 4, 6, 8, 10});
  for (const char* name : {"loss", "auxiliary", "dropped", "learning_rate", "gradient_norm",
                           "examples_per_second", "seconds", "losses.balance", "load_max_mean"}) {
    CAPTURE(name);
    REQUIRE(run.steps.columns.contains(name));
    REQUIRE(run.steps.columns.at(name).size() == 5);
    for (const double x : run.steps.columns.at(name)) CHECK(std::isfinite(x));
  }
  for (const auto& layers : run.steps.loads) {
    REQUIRE(layers.size() == 1);
    CHECK(layers[0].size() == 4);
  }
  CHECK(run.evaluations.step == std::vector<std::int64_t>{10});
  CHECK(run.evaluations.columns.at("test_accuracy").back() == result.test.accuracy());
  const auto accuracy =
      std::ranges::find(run.result, "test_accuracy", &std::pair<std::string, double>::first);
  REQUIRE(accuracy != run.result.end());
  CHECK(accuracy->second == result.test.accuracy());
  CHECK(run.maths == "exact");
  CHECK(run.config.at("options.shared") == "1");
  CHECK(run.set == Strings{"router", "experts", "active", "width", "hidden", "epochs", "batch",
                           "log_every", "options.shared"});
  CHECK(run.command ==
        "moegrad train synthetic --router switch --experts 4 --active 1 --width 8 --hidden 8 "
        "--epochs 1 --batch 32 --log-every 2 --option shared=1 --out " +
            (folder / "run").string());
}

TEST_CASE("read_run: the command's words are quoted for a shell") {
  TrainConfig config = Folder::config_of("synthetic");
  apply_settings(config, {{"data", "it's here"}, {"options.a", "$x"}, {"aux", "0.5"}});
  const Folder folder(config);
  CHECK(folder.run().command ==
        R"(moegrad train synthetic --aux 0.5 --data 'it'\''s here' --option 'a=$x' --out )" +
            folder.path().string());
}

TEST_CASE("read_run: finished, going on, stopped") {
  const Folder folder;
  CHECK(folder.run().state == LoggedRun::State::stopped);
  {
    const FolderLock lock(folder.path());
    CHECK(folder.run().state == LoggedRun::State::going_on);
  }
  CHECK(folder.run().state == LoggedRun::State::stopped);
  folder.write("result.json", R"({"steps": 20, "test_loss": null})");
  const LoggedRun run = folder.run();
  CHECK(run.state == LoggedRun::State::finished);
  REQUIRE(run.result.size() == 2);
  CHECK(run.result[1].first == "test_loss");
  CHECK(std::isnan(run.result[1].second));
}

TEST_CASE("read_run: what is not finite or not a number is NaN in its column") {
  const Folder folder;
  folder.write("metrics.jsonl", R"({"kind":"step","step":1,"loss":null,"losses":{"z-loss":2}}
{"kind":"step","step":2,"loss":"much","gradient_norm":3}
{"kind":"step","step":3,"loss":0.5,"expert_load":[0.25,0.75]}
{"kind":"step","step":4,"expert_load":[null,0.75],"layer_loads":[[1,0],[0.5,0.5]]}
)");
  const LoggedRun run = folder.run();
  CHECK(run.notes.empty());
  const auto column = [&](const char* name) {
    std::string text;
    for (const double x : run.steps.columns.at(name)) text += fmt::format("{} ", x);
    return text;
  };
  CHECK(column("loss") == "nan nan 0.5 nan ");
  CHECK(column("losses.z-loss") == "2 nan nan nan ");
  CHECK(column("gradient_norm") == "nan 3 nan nan ");
  CHECK(column("load_max_mean") == "nan nan 1.5 1.5 ");
  CHECK(run.steps.loads[1].empty());
  CHECK(run.steps.loads[3].size() == 2);
}

TEST_CASE("read_run: the lines of a run that is going on, in the order of their steps") {
  const Folder folder;
  folder.write("metrics.jsonl",
               R"({"kind":"step","step":40,"loss":2}
{"kind":"step","step":20,"loss":1}
{"kind":"step","step":60,"lo)");
  const LoggedRun run = folder.run();
  CHECK(run.notes.empty());
  CHECK(run.steps.step == std::vector<std::int64_t>{20, 40});
  CHECK(run.steps.columns.at("loss") == std::vector<double>{1.0, 2.0});
}

TEST_CASE("read_run: another version's settings, lines and results are told") {
  const Folder folder;
  folder.change_config({{"colour", "red"}, {"depth", 3}});
  json object = json::parse(read_file(folder.path() / "config.json"));
  object.erase("heads");
  object.erase("layers");
  folder.write("config.json", object.dump());
  folder.write("result.json", R"({"steps": 1, "joy": 2})");
  folder.write("metrics.jsonl",
               "{\"kind\":\"step\",\"step\":1,\"mood\":1}\n"
               "{\"kind\":\"sample\",\"step\":1}\n"
               "{\"kind\":\"sample\",\"step\":2}\n"
               "{\"step\":1}\n[]\nnonsense\n" +
                   std::string("{\"kind\":\"step\",\"step\":1}\0\n", 26));
  const LoggedRun run = folder.run();
  CHECK(run.config.at("colour") == "red");
  CHECK(run.config.at("depth") == "3");
  CHECK(run.config.at("heads") == "4");
  CHECK(run.notes ==
        Strings{"config.json has 'colour', 'depth', which this version does not know",
                "config.json lacks layers, heads: shown as by default",
                "result.json has 'joy', which this version does not know",
                "metrics.jsonl has 'mood', which this version does not know",
                "metrics.jsonl has 2 of kind 'sample', which this version does not know",
                "metrics.jsonl has 4 unreadable lines"});
}

TEST_CASE("read_run: nothing logged, nothing readable") {
  const Folder folder;
  for (const bool there : {true, false}) {
    if (there) folder.write("metrics.jsonl", "");
    if (!there) fs::remove(folder.path() / "metrics.jsonl");
    const LoggedRun run = folder.run();
    CHECK(run.notes == Strings{"metrics.jsonl has no step and no evaluation"});
    CHECK(run.last_step() == 0);
  }
  folder.write("result.json", "[]");
  CHECK(folder.run().notes[0] == "result.json is not the result of a run");
}

TEST_CASE("read_run: a configuration that is none") {
  const Folder folder;
  const std::string file = (folder.path() / "config.json").string();
  folder.write("config.json", "{\"task\": ");
  CHECK(error_of([&] { folder.run(); }) == "[config] " + file +
                                               ": line 1, column 9: not JSON. Correct the text "
                                               "there.");
  folder.write("config.json", "[]");
  CHECK(error_of([&] { folder.run(); }).starts_with("[config] " + file + ": the top level is"));
  folder.write("config.json", R"({"task": 3})");
  CHECK(error_of([&] { folder.run(); }) ==
        "[config] " + file + ": 'task' is 3. Give a text in quotes.");
  fs::remove(folder.path() / "config.json");
  CHECK(error_of([&] { folder.run(); }).starts_with("[read] cannot read '" + file + "'"));
}

}  // namespace
}  // namespace moegrad
