#include "train/loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tests/temporary_files.h"
#include "tests/train/file_size_limit.h"
#include "tests/train/forged.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::error_of;
using test::FileSizeLimit;
using test::forge;
using test::TemporaryFolder;

// 300 examples in batches of 32: 10 a pass, the last one smaller.
Task small_task(DType dtype = DType::f32) {
  return make_synthetic(dtype, 3, {.train_size = 300, .test_size = 100});
}
TrainConfig small(const Settings& settings = {}) {
  TrainConfig config;
  config.task = "synthetic";
  config.experts = 4;
  config.width = 16;
  config.hidden = 8;
  config.epochs = 2;
  config.batch = 32;
  config.log_every = 3;
  apply_settings(config, settings);
  return config;
}

// A run with the signal there from the start: it makes one step, saves and stops.
TrainResult train_one_step(const TrainConfig& config, RunOptions options) {
  const std::atomic<int> stop{2};
  options.stop = &stop;
  return train(config, options);
}

std::string final_checkpoint(const fs::path& out) {
  const auto newest = Checkpoints(RunFolder(out).checkpoints(), 2, "{}").newest();
  REQUIRE(newest);
  return newest->filename().string() + "\n" + read_file(*newest);
}

// Lines of metrics without what depends on the clock.
std::string metrics(const fs::path& out) {
  const std::string all = read_file(RunFolder(out).metrics());
  std::string text;
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = all.find('\n', begin);
    REQUIRE(end != std::string::npos);
    json line = json::parse(all.substr(begin, end - begin));
    line.erase("seconds");
    line.erase("examples_per_second");
    text += line.dump() + "\n";
    begin = end + 1;
  }
  return text;
}

const std::vector<Settings> kKinds = {
    {},
    {{"router", "moesart"}},
    {{"estimator", "expert-group"}, {"optimiser", "sgd"}, {"lr", "0.05"}, {"nesterov", "true"}},
    {{"dtype", "f64"}, {"router", "softmax"}, {"schedule", "constant"}},
    // State of a router and of an estimator; a router's own rate; losses of several samples.
    {{"router", "loss-free"}, {"estimator", "default-ema"}},
    {{"router", "remoe"}},
    {{"router", "categorical"},
     {"estimator", "reinforce"},
     {"active", "1"},
     {"options.samples", "2"},
     {"options.baseline", "leave-one-out"}},
};

TEST_CASE("loop: told after each step, which may stop the run there") {
  const TemporaryFolder folder;
  const TrainConfig config = small({});
  const Task task = small_task(config.type());
  std::atomic<int> stop{0};
  std::vector<std::int64_t> steps;
  RunOptions options{.out = folder / "run", .stop = &stop, .task = &task};
  options.after_step = [&](const ProgressView& view) {
    steps.push_back(view.step);
    CHECK(view.steps == 20);
    if (view.step == 3) stop = 2;
  };
  const TrainResult result = train(config, options);
  CHECK(steps == std::vector<std::int64_t>{1, 2, 3});
  CHECK(result.steps == 3);
  CHECK(result.signal == 2);
}

TEST_CASE("loop: stopped after every step and resumed, the bits of an uninterrupted run") {
  for (const Settings& kind : kKinds) {
    const TemporaryFolder folder;
    const TrainConfig config = small(kind);
    const Task task = small_task(config.type());
    train(config, {.out = folder / "whole", .task = &task});
    TrainResult part = train_one_step(config, {.out = folder / "parts", .task = &task});
    int parts = 1;
    for (; part.signal != 0; ++parts) {
      CHECK(part.signal == 2);
      CHECK(part.steps == parts);
      CHECK(!fs::exists(RunFolder(folder / "parts").result()));
      part = train_one_step(config, {.out = folder / "parts", .resume = true, .task = &task});
    }
    CHECK(parts == 20);
    CHECK(final_checkpoint(folder / "parts") == final_checkpoint(folder / "whole"));
    CHECK(metrics(folder / "parts") == metrics(folder / "whole"));
    CHECK(fs::exists(RunFolder(folder / "parts").result()));
  }
}

TEST_CASE("loop: resumed from an older checkpoint, metrics have no double lines") {
  const TemporaryFolder folder;
  const TrainConfig config = small({{"checkpoint_every", "4"}, {"keep", "9"}});
  const Task task = small_task();
  const fs::path out = folder / "run";
  train(config, {.out = out, .task = &task});
  const std::string whole = final_checkpoint(out);
  const std::string lines = metrics(out);
  const Checkpoints checkpoints(RunFolder(out).checkpoints(), 9, "{}");
  REQUIRE(checkpoints.list().size() == 6);  // 4, 8, 10, 12, 16, 20
  for (int i = 2; i < 6; ++i) fs::remove(checkpoints.list().back());
  CHECK(checkpoints.newest()->filename() == "step-00000008.safetensors");
  train(config, {.out = out, .resume = true, .task = &task});
  CHECK(final_checkpoint(out) == whole);
  CHECK(metrics(out) == lines);
}

TEST_CASE("loop: killed before the first checkpoint, it starts from the beginning") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  RunFolder(folder / "killed").start(config, false);
  train(config, {.out = folder / "killed", .resume = true, .task = &task});
  train(config, {.out = folder / "whole", .task = &task});
  CHECK(final_checkpoint(folder / "killed") == final_checkpoint(folder / "whole"));
}

TEST_CASE("loop: resuming a finished run changes nothing") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  const TrainResult first = train(config, {.out = folder / "run", .task = &task});
  const std::string lines = metrics(folder / "run");
  const TrainResult again = train(config, {.out = folder / "run", .resume = true, .task = &task});
  CHECK(again.steps == first.steps);
  CHECK(again.test.accuracy() == first.test.accuracy());
  CHECK(again.test.loss == first.test.loss);
  CHECK(metrics(folder / "run") == lines);
}

TEST_CASE("loop: one, two and three threads give the same bits") {
  for (const Settings& kind : kKinds) {
    const TemporaryFolder folder;
    const TrainConfig config = small(kind);
    const Task task = small_task(config.type());
    train(config, {.out = folder / "1", .threads = 1, .task = &task});
    for (const int threads : {2, 3}) {
      const fs::path out = folder / std::to_string(threads);
      train(config, {.out = out, .threads = threads, .task = &task});
      CHECK(final_checkpoint(out) == final_checkpoint(folder / "1"));
      CHECK(metrics(out) == metrics(folder / "1"));
    }
  }
}

TEST_CASE("loop: computed on another device, the files of a run on the CPU") {
  for (const Settings& kind : kKinds) {
    const TemporaryFolder folder;
    const TrainConfig config = small(kind);
    const Task task = small_task(config.type());
    train(config, {.out = folder / "cpu", .task = &task});
    const RunOptions there = {.out = folder / "there", .device = Device::guarded, .task = &task};
    train_one_step(config, there);
    RunOptions resumed = there;
    resumed.resume = true;
    train(config, resumed);
    CHECK(final_checkpoint(there.out) == final_checkpoint(folder / "cpu"));
    CHECK(metrics(there.out) == metrics(folder / "cpu"));
  }
}

TEST_CASE("loop: TF32 and bf16 are for f32 on a CUDA device") {
  const TemporaryFolder folder;
  const Task task = small_task();
  const auto error_of = [&](const Settings& settings, Device device) -> std::string {
    try {
      train(small(settings),
            {.out = folder / "run", .device = device, .maths = Maths::bf16, .task = &task});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(error_of({}, Device::cpu) ==
        "[train] maths is bf16, and the device is cpu. Use the device cuda, or exact.");
  CHECK(error_of({{"dtype", "f64"}}, Device::cuda) ==
        "[train] maths is bf16, which is for f32, and dtype is f64. Use f32, or exact.");
  CHECK(!std::filesystem::exists(folder / "run"));
  CHECK(maths() == Maths::exact);
}

TEST_CASE("loop: another seed is another run") {
  const TemporaryFolder folder;
  const Task task = small_task();
  train(small(), {.out = folder / "1", .task = &task});
  train(small({{"seed", "2"}}), {.out = folder / "2", .task = &task});
  CHECK(metrics(folder / "1") != metrics(folder / "2"));
}

TEST_CASE("loop: the files of a run") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  train(config, {.out = folder / "run", .task = &task});
  const RunFolder run(folder / "run");
  const json result = json::parse(read_file(run.result()));
  CHECK(result["steps"] == 20);
  CHECK(result["seed"] == 1);
  CHECK(result["train_seconds"].get<double>() > 0.0);
  CHECK(result["test_accuracy"].get<double>() > 0.0);
  CHECK(result["test_accuracy"].get<double>() <= 1.0);
  CHECK(result["test_loss"].get<double>() > 0.0);
  REQUIRE(result["expert_load"].size() == 4);
  double total = 0.0;
  for (const json& load : result["expert_load"]) total += load.get<double>();
  CHECK(total == doctest::Approx(1.0));
  CHECK(to_json(run.resumed({})) == to_json(config));
  CHECK(Checkpoints(run.checkpoints(), 2, "{}").list().size() == 2);
  const std::string lines = metrics(folder / "run");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 6 + 2);
  CHECK(error_of([&] {
          train(config, {.out = folder / "run", .task = &task});
        }).find("holds a run that was finished already.") != std::string::npos);
  train(config, {.out = folder / "run", .force = true, .task = &task});
}

TEST_CASE("loop: data that are not finite, or missing") {
  const TemporaryFolder folder;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Task task = small_task();
    task.train.x.write_values<float>()[16 * 7 + 3] = bad;
    CHECK(error_of([&] { train(small(), {.out = folder / "run", .task = &task}); }) ==
          fmt::format("[dataset] training data: row 7, column 3 is {}. Repair or remove the row.",
                      bad));
  }
  Task task = small_task();
  task.test.x = task.test.x.rows(0, 0);
  task.test.labels = task.test.labels.rows(0, 0);
  CHECK(error_of([&] { train(small(), {.out = folder / "run", .task = &task}); }) ==
        "[train] task 'synthetic': the test data have 0 examples. Give at least one.");
  CHECK(!fs::exists(folder / "run"));
}

// Finite data whose squares are not: the loss is NaN from the batch on that holds the row.
TEST_CASE("loop: a loss that is not finite names the operation, the step and the batch") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  TrainConfig config = small({{"checkpoint_every", "1"}, {"keep", "100"}});
  Task task = small_task();
  for (std::int64_t d = 0; d < 16; ++d) {
    task.train.x.write_values<float>()[static_cast<std::size_t>(16 * 5 + d)] = 3e38F;
  }
  // Where the epoch puts row 5.
  const Tensor order = epoch_rng(1, 0).permutation(300);
  const std::span<const std::int32_t> rows = order.values<std::int32_t>();
  const std::int64_t place = std::find(rows.begin(), rows.end(), 5) - rows.begin();
  const std::int64_t batch = place / 32;
  REQUIRE(batch > 0);
  const std::string error = error_of([&] { train(config, {.out = out, .task = &task}); });
  const Checkpoints checkpoints(RunFolder(out).checkpoints(), 100, "{}");
  CHECK(error.starts_with(
      fmt::format("[train] step {} (epoch 1, batch {}): the loss is ", batch + 1, batch + 1)));
  const std::size_t element = error.find("at element ");
  REQUIRE(element != std::string::npos);
  CHECK(std::stoll(error.substr(element + 11)) / 16 == place % 32);  // its row, of [32, 16]
  CHECK(error.ends_with(fmt::format(
      " of shape [32, 16]. Look at its inputs. Lower the learning rate. The last checkpoint is "
      "'{}'.",
      (RunFolder(out).checkpoints() / fmt::format("step-{:08}.safetensors", batch)).string())));
  CHECK(static_cast<std::int64_t>(checkpoints.list().size()) == batch);
}

// Steps so long that the weights explode: the loss is finite, the squares of its slopes are not,
// even in f64.
TEST_CASE("loop: a finite loss with a gradient that is not") {
  const TemporaryFolder folder;
  Task task = small_task();
  task.train.x = task.train.x.to(DType::f64);
  task.test.x = task.test.x.to(DType::f64);
  const TrainConfig config = small({{"optimiser", "sgd"},
                                    {"schedule", "constant"},
                                    {"clip", "0"},
                                    {"dtype", "f64"},
                                    {"lr", "100000"},
                                    {"router_lr", "1000000"},
                                    {"options.z-loss", "1000000"}});
  const std::string error =
      error_of([&] { train(config, {.out = folder / "run", .task = &task}); });
  CHECK_MESSAGE(error.starts_with("[train] step 3 (epoch 1, batch 3): the loss is "), error);
  CHECK_MESSAGE(error.ends_with(", and the gradient of all parameters together is not finite. "
                                "Lower the learning rate. There is no checkpoint yet."),
                error);
}

TEST_CASE("loop: the disk is full when a checkpoint is due; later the run goes on") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  const Task task = small_task();
  const TrainConfig config = small();
  train(config, {.out = folder / "whole", .task = &task});
  train_one_step(config, {.out = out, .task = &task});
  const std::string before = final_checkpoint(out);
  {
    const FileSizeLimit limit(before.size() / 2);
    CHECK(error_of([&] { train(config, {.out = out, .resume = true, .task = &task}); }) ==
          "[write] cannot write '" +
              (RunFolder(out).checkpoints() / "step-00000010.safetensors").string() +
              "': File too large. Free some space or choose another disk; nothing was changed.");
  }
  CHECK(final_checkpoint(out) == before);
  train(config, {.out = out, .resume = true, .task = &task});
  CHECK(final_checkpoint(out) == final_checkpoint(folder / "whole"));
  CHECK(metrics(out) == metrics(folder / "whole"));
}

TEST_CASE("loop: the memory that a resumed run may take is enough") {
  const TemporaryFolder folder;
  for (const char* optimiser : {"adamw", "sgd"}) {
    for (const char* dtype : {"f32", "f64"}) {
      const TrainConfig config =
          small({{"width", "128"}, {"hidden", "512"}, {"optimiser", optimiser}, {"dtype", dtype}});
      const Task task = small_task(config.type());
      train_one_step(config, {.out = folder / "run", .force = true, .task = &task});
      pool::release_cached(Device::cpu);
      CHECK(train_one_step(config, {.out = folder / "run", .resume = true, .task = &task}).steps ==
            2);
    }
  }
}

TEST_CASE("loop: a run folder that asks for more than its checkpoint holds takes no memory") {
  const TemporaryFolder folder;
  const RunFolder run(folder / "run");
  const Task task = small_task();
  const TrainConfig config = small({{"width", "8"}});
  train_one_step(config, {.out = run.path(), .force = true, .task = &task});
  const fs::path path = Checkpoints(run.checkpoints(), 2, "{}").newest().value();
  const std::string good = read_file(path);
  // The checksum is right, and both configurations say the same.
  const auto error = [&](const Settings& settings) {
    TrainConfig changed = config;
    apply_settings(changed, settings);
    write_file_atomic(path, good);
    forge(path, "config", to_json(changed, true));
    write_file_atomic(run.config(), to_json(changed));
    pool::release_cached(Device::cpu);
    pool::reset_peak(Device::cpu);
    const std::string text =
        error_of([&] { train(changed, {.out = run.path(), .resume = true, .task = &task}); });
    CHECK(pool::stats(Device::cpu).peak_bytes_in_use < (std::size_t{16} << 20));
    return text;
  };
  CHECK(error({{"experts", "64"}, {"width", "512"}, {"hidden", "512"}}) ==
        "[checkpoint] " + path.string() +
            ": the experts are f32 [4, 8, 8] there, and its configuration asks for f32 [64, 512, "
            "512]. Is the file damaged?");
  for (const char* name : {"experts", "width", "hidden"}) {
    CHECK(error({{name, "65536"}}).find("the experts are f32 [4, 8, 8] there") !=
          std::string::npos);
  }
  CHECK(error({{"dtype", "f64"}}).find("asks for f64 [4, 8, 8]") != std::string::npos);
  // Sizes that the experts do not show.
  CHECK(error({{"options.shared", "64"}}).find("no tensor") != std::string::npos);
  CHECK(error({{"router", "soft-moe"}, {"options.slots", "4096"}}).starts_with("[storage]"));
  CHECK(error({{"router", "x-moe"}, {"options.dimensions", "1000000"}}).starts_with("[storage]"));
}

}  // namespace
}  // namespace moegrad
