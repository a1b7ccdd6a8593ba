// Runs that go on with more epochs than they had.

#include <algorithm>
#include <atomic>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/checkpoint.h"
#include "train/loop.h"
#include "train/run_folder.h"
#include "train/schedule.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::error_of;
using test::TemporaryFolder;

constexpr std::int64_t kBatches = 10;  // of an epoch

Task task_of_ten_batches() {
  return make_synthetic(DType::f32, 3, {.train_size = 300, .test_size = 100});
}
TrainConfig config_of(std::int64_t epochs, const Settings& settings = {}) {
  TrainConfig config;
  config.task = "synthetic";
  config.experts = 4;
  config.width = 16;
  config.hidden = 8;
  config.epochs = epochs;
  config.batch = 32;
  config.log_every = 1;
  apply_settings(config, settings);
  return config;
}

std::string newest_checkpoint(const fs::path& out) {
  const auto newest = Checkpoints(RunFolder(out).checkpoints(), 2, "{}").newest();
  REQUIRE(newest);
  return newest->filename().string() + "\n" + read_file(*newest);
}

// The learning rates of the steps 1, 2, ... in the log.
std::vector<double> rates(const fs::path& out) {
  std::vector<double> all;
  std::istringstream lines(read_file(RunFolder(out).metrics()));
  for (std::string text; std::getline(lines, text);) {
    const json line = json::parse(text);
    if (line["kind"] == "step") all.push_back(line["learning_rate"]);
  }
  return all;
}

// A resumed run that asks for so many epochs, until it has finished or made `steps` steps.
TrainResult go_on(const fs::path& out, const Task& task, std::int64_t epochs, bool one_step) {
  const TrainConfig config = RunFolder(out).resumed({{"epochs", std::to_string(epochs)}});
  const std::atomic<int> stop{2};
  return train(config,
               {.out = out, .resume = true, .stop = one_step ? &stop : nullptr, .task = &task});
}

}  // namespace

TEST_CASE("extend: with a constant rate the bits of a run that was as long from the start") {
  const TemporaryFolder folder;
  const Task task = task_of_ten_batches();
  const Settings constant = {{"schedule", "constant"}, {"warmup", "0"}};
  train(config_of(4, constant), {.out = folder / "long", .task = &task});
  train(config_of(2, constant), {.out = folder / "run", .task = &task});
  const TrainResult result = go_on(folder / "run", task, 4, false);
  CHECK(result.steps == 4 * kBatches);
  CHECK(newest_checkpoint(folder / "run") == newest_checkpoint(folder / "long"));
  CHECK(rates(folder / "run") == rates(folder / "long"));
  CHECK(RunFolder(folder / "run").resumed({}).epochs == 4);
}

TEST_CASE("extend: from the next step on the rate is that of the longer run") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  const Task task = task_of_ten_batches();
  const TrainConfig config = config_of(2);
  train(config, {.out = out, .task = &task});
  go_on(out, task, 5, false);
  const auto rate = [&](std::int64_t epochs, std::int64_t step) {
    const std::int64_t total = epochs * kBatches;
    return Schedule{.kind = Schedule::Kind::cosine,
                    .rate = config.lr,
                    .warmup = std::min(config.warmup, total / 10),
                    .total = total}
        .at(step);
  };
  std::vector<double> expected;
  for (std::int64_t step = 0; step < 5 * kBatches; ++step) {
    expected.push_back(rate(step < 2 * kBatches ? 2 : 5, step));
  }
  CHECK(rates(out) == expected);
}

TEST_CASE("extend: stopped after every step, the bits of an extension that was not") {
  const TemporaryFolder folder;
  const Task task = task_of_ten_batches();
  for (const char* name : {"whole", "parts"}) {
    train(config_of(1), {.out = folder / name, .task = &task});
  }
  go_on(folder / "whole", task, 3, false);
  TrainResult part = go_on(folder / "parts", task, 3, true);
  // What the folder says is enough from here on.
  for (; part.signal != 0;) part = go_on(folder / "parts", task, 3, true);
  CHECK(newest_checkpoint(folder / "parts") == newest_checkpoint(folder / "whole"));
  CHECK(rates(folder / "parts") == rates(folder / "whole"));
}

TEST_CASE("extend: an interrupted run, before its first checkpoint too") {
  const TemporaryFolder folder;
  const Task task = task_of_ten_batches();
  const std::atomic<int> stop{2};
  train(config_of(2), {.out = folder / "run", .stop = &stop, .task = &task});
  CHECK(go_on(folder / "run", task, 3, false).steps == 3 * kBatches);
  RunFolder(folder / "none").start(config_of(2), false);
  go_on(folder / "none", task, 3, false);
  train(config_of(3), {.out = folder / "long", .task = &task});
  CHECK(newest_checkpoint(folder / "none") == newest_checkpoint(folder / "long"));
}

TEST_CASE("extend: the earlier result stays, whenever the run is killed") {
  const TemporaryFolder folder;
  const RunFolder run(folder / "run");
  const Task task = task_of_ten_batches();
  train(config_of(1), {.out = run.path(), .task = &task});
  const std::string first = read_file(run.result());
  const fs::path earlier = run.path() / "result-step-00000010.json";
  CHECK(go_on(run.path(), task, 2, true).signal == 2);
  CHECK(!path_exists(run.result()));  // it is not finished any more
  CHECK(read_file(earlier) == first);
  CHECK(go_on(run.path(), task, 2, false).signal == 0);
  CHECK(json::parse(read_file(run.result()))["steps"] == 2 * kBatches);
  CHECK(read_file(earlier) == first);
  go_on(run.path(), task, 3, false);
  CHECK(path_exists(run.path() / "result-step-00000020.json"));
  CHECK(read_file(earlier) == first);

  // Killed within extend: the result has two names, the configuration is the old one.
  const fs::path last = run.path() / "result-step-00000030.json";
  const std::string third = read_file(run.result());
  write_file_atomic(last, third);
  CHECK(go_on(run.path(), task, 3, false).steps == 3 * kBatches);
  CHECK(path_exists(run.result()));
  // ... or one name, and the configuration is still the old one: it is evaluated once more.
  remove_file(run.result());
  CHECK(go_on(run.path(), task, 3, false).steps == 3 * kBatches);
  CHECK(json::parse(read_file(run.result()))["test_loss"] == json::parse(third)["test_loss"]);
  CHECK(read_file(last) == third);

  // A new run in the folder removes all of them.
  train(config_of(1), {.out = run.path(), .force = true, .task = &task});
  CHECK(!path_exists(earlier));
  CHECK(!path_exists(last));
}

TEST_CASE("extend: fewer epochs than the run has are refused, and so is a damaged result") {
  const TemporaryFolder folder;
  const RunFolder run(folder / "run");
  const Task task = task_of_ten_batches();
  train(config_of(2), {.out = run.path(), .task = &task});
  CHECK(error_of([&] {
          run.resumed({{"epochs", "1"}});
        }) ==
        fmt::format("[train] --epochs 1 contradicts the run in '{}', which has 2. Leave it out, or "
                    "start another run with --out.",
                    run.path().string()));
  const std::string checkpoint = newest_checkpoint(run.path());
  write_file_atomic(run.result(), "{}");
  CHECK(
      error_of([&] { go_on(run.path(), task, 3, false); }) ==
      fmt::format("[train] '{}' is not the result of a run. Move it away.", run.result().string()));
  CHECK(run.resumed({}).epochs == 2);
  CHECK(newest_checkpoint(run.path()) == checkpoint);
}

}  // namespace moegrad
