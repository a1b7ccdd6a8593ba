// What the log of a run tells of its mixture.

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "tensor/files.h"
#include "tests/temporary_files.h"
#include "train/loop.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::TemporaryFolder;

Task task_of_five_batches() {
  return make_synthetic(DType::f64, 3, {.train_size = 150, .test_size = 100});
}
TrainConfig config_of(const Settings& settings) {
  TrainConfig config;
  config.task = "synthetic";
  config.dtype = "f64";
  config.experts = 4;
  config.width = 16;
  config.hidden = 8;
  config.epochs = 1;
  config.batch = 32;
  config.log_every = 1;
  apply_settings(config, settings);
  return config;
}

std::vector<json> lines_of(const TrainConfig& config, const std::string& kind) {
  const TemporaryFolder folder;
  const Task task = task_of_five_batches();
  train(config, {.out = folder / "run", .task = &task});
  std::vector<json> all;
  std::istringstream lines(read_file(RunFolder(folder / "run").metrics()));
  for (std::string text; std::getline(lines, text);) {
    json line = json::parse(text);
    if (line["kind"] == kind) all.push_back(std::move(line));
  }
  return all;
}

double sum_of(const json& numbers) {
  double sum = 0.0;
  for (const json& n : numbers) sum += n.get<double>();
  return sum;
}

std::set<std::string> keys_of(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

// The fields that the n-th table of fields in the tutorial names.
std::set<std::string> documented(int table) {
  std::istringstream lines(read_file(fs::path(MOEGRAD_SOURCE_DIR) / "docs/tutorial.md"));
  std::set<std::string> fields;
  int seen = 0;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line == "| field | what it is |") inside = ++seen == table;
    if (line.empty()) inside = false;
    if (!inside) continue;
    const std::string cell = line.substr(0, line.find('|', 1));
    for (std::size_t at = cell.find('`'); at != std::string::npos;) {
      const std::size_t end = cell.find('`', at + 1);
      fields.insert(cell.substr(at + 1, end - at - 1));
      at = cell.find('`', end + 1);
    }
  }
  return fields;
}

TEST_CASE("evaluations take as many test examples as asked for; the data are the same") {
  const auto losses = [](const Task& task, const char* test_examples) {
    const TemporaryFolder folder;
    const TrainConfig config = config_of({{"test_examples", test_examples}});
    const TrainResult result = train(config, {.out = folder / "run", .task = &task});
    return std::pair(result.test.loss, result.data);
  };
  const Task task = task_of_five_batches();
  const auto all = losses(task, "0");
  CHECK(losses(task, "100") == all);
  const auto some = losses(task, "10");
  CHECK(some.first != all.first);
  CHECK(some.second == all.second);
  Task other = task;
  other.test = evenly(task.test, 10);
  CHECK(losses(other, "0").first == some.first);
  CHECK(losses(other, "0").second != some.second);
}

}  // namespace

TEST_CASE("metrics: the fields of both kinds of lines are the documented ones") {
  const TrainConfig config = config_of({});
  for (const json& line : lines_of(config, "step")) CHECK(keys_of(line) == documented(1));
  for (const json& line : lines_of(config, "evaluation")) CHECK(keys_of(line) == documented(2));
}

TEST_CASE("metrics: auxiliary is the sum of coefficients times losses, which do not hold them") {
  const std::vector<json> lines = lines_of(config_of({{"router", "switch"},
                                                      {"active", "1"},
                                                      {"aux", "0.3"},
                                                      {"options.balance", "0.7"},
                                                      {"options.z-loss", "0.01"}}),
                                           "step");
  REQUIRE(lines.size() == 5);
  for (const json& line : lines) {
    const json& losses = line["losses"];
    CHECK(keys_of(losses) == std::set<std::string>{"balance", "aux", "z-loss"});
    const double expected = 0.7 * losses["balance"].get<double>() +
                            0.3 * losses["aux"].get<double>() +
                            0.01 * losses["z-loss"].get<double>();
    CHECK(line["auxiliary"].get<double>() == doctest::Approx(expected).epsilon(1e-12));
    CHECK(losses["balance"].get<double>() > 0.9);  // E sum f P is 1 at balance
  }
}

TEST_CASE("metrics: loads sum to 1, and the dropped part is counted") {
  for (const char* capacity : {"0.5", "1e6"}) {
    const std::vector<json> lines = lines_of(config_of({{"router", "switch"},
                                                        {"active", "1"},
                                                        {"options.capacity", capacity},
                                                        {"options.capacity-min", "1"}}),
                                             "step");
    for (const json& line : lines) {
      CHECK(line["expert_load"].size() == 4);
      CHECK(sum_of(line["expert_load"]) == doctest::Approx(1.0).epsilon(1e-12));
      const double dropped = line["dropped"];
      // Each of the 4 experts takes 4 of the 32 tokens at most: half of them and more find no room.
      if (std::string(capacity) == "0.5") CHECK(dropped >= 0.5);
      if (std::string(capacity) == "0.5") CHECK(dropped < 1.0);
      if (std::string(capacity) == "1e6") CHECK(dropped == 0.0);
    }
  }
}

TEST_CASE("metrics: evaluation without drops, where it is asked for; training is the same") {
  const Settings switch_router = {{"router", "switch"},
                                  {"active", "1"},
                                  {"options.eval-capacity", "0.25"},
                                  {"options.capacity-min", "1"}};
  TrainConfig config = config_of(switch_router);
  const json paper = lines_of(config, "evaluation").at(0);
  const double loss = lines_of(config, "step").back()["loss"];
  config.dropless = true;
  const json dropless = lines_of(config, "evaluation").at(0);
  CHECK(lines_of(config, "step").back()["loss"] == loss);
  CHECK(paper["dropped"] >= 0.7);
  CHECK(dropless["dropped"] == 0.0);
  CHECK(paper["test_loss"] != dropless["test_loss"]);
}

TEST_CASE("metrics: of every router the losses are named where there is an auxiliary loss") {
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    const std::int64_t active = std::min<std::int64_t>(2, entry.most_active);
    const std::vector<json> lines =
        lines_of(config_of({{"router", entry.name}, {"active", std::to_string(active)}}), "step");
    for (const json& line : lines) {
      if (line["auxiliary"] != 0.0) CHECK(!line["losses"].empty());
      CHECK(std::abs(sum_of(line["expert_load"]) - 1.0) < 1e-9);
    }
  }
}

}  // namespace moegrad
