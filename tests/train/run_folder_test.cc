// The folder of a run, as the loop uses it.

#include "train/run_folder.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "tests/train/file_size_limit.h"
#include "tests/train/forged.h"
#include "train/checkpoint.h"
#include "train/loop.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

Task small_task() { return make_synthetic(DType::f32, 3, {.train_size = 300, .test_size = 100}); }
TrainConfig small() {
  TrainConfig config;
  config.task = "synthetic";
  config.experts = 4;
  config.width = 16;
  config.hidden = 8;
  config.epochs = 2;
  config.batch = 32;
  return config;
}

std::string final_checkpoint(const fs::path& out) {
  const auto newest = Checkpoints(RunFolder(out).checkpoints(), 2, "{}").newest();
  REQUIRE(newest);
  return newest->filename().string() + "\n" + read_file(*newest);
}

// Runs of earlier versions stored aux as -1, which was 0.01 for a router without a balance loss of
// its own.
TEST_CASE("run folder: a run that an earlier version began goes on with the aux that it had") {
  const TemporaryFolder folder;
  const Task task = small_task();
  for (const auto& [name, aux] : {std::pair("top-k", 0.01), {"moesart", 0.0}, {"softmax", 0.0}}) {
    const std::string router = name;
    CAPTURE(router);
    TrainConfig config = small();
    config.router = router;
    config.aux = aux;
    const RunFolder run(folder / router);
    train(config, {.out = run.path(), .task = &task});
    const std::string whole = final_checkpoint(run.path());
    const std::vector<fs::path> steps = Checkpoints(run.checkpoints(), 2, "{}").list();
    REQUIRE(steps.size() == 2);
    fs::remove(steps[1]);
    const auto as_before = [](const std::string& json) {
      const auto at = json.find("\"aux\":");
      REQUIRE(at != std::string::npos);
      return json.substr(0, at) + "\"aux\":-1.0" + json.substr(json.find(',', at));
    };
    write_file_atomic(run.config(), as_before(read_file(run.config())));
    test::forge(steps[0], "config", as_before(read_safetensors(steps[0]).metadata.at("config")));
    const TrainConfig resumed = run.resumed({});
    CHECK(resumed.aux == aux);
    train(resumed, {.out = run.path(), .resume = true, .task = &task});
    CHECK(final_checkpoint(run.path()) == whole);
  }
}

TEST_CASE(
    "run folder: without its checkpoints a run starts over and works; what a kill left is "
    "removed") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  const fs::path out = folder / "run";
  train(config, {.out = out, .task = &task});
  const std::string whole = final_checkpoint(out);
  fs::remove_all(RunFolder(out).checkpoints());
  for (const char* name : {".12-0.moegrad-tmp", ".34-5.moegrad-tmp"}) {
    std::ofstream(out / name) << "half";
  }
  const std::atomic<int> stop{2};  // after one step
  train(config, {.out = out, .resume = true, .stop = &stop, .task = &task});
  CHECK(!fs::exists(RunFolder(out).result()));  // it is not finished any more
  CHECK(!fs::exists(out / ".12-0.moegrad-tmp"));
  CHECK(!fs::exists(out / ".34-5.moegrad-tmp"));
  std::ofstream(RunFolder(out).checkpoints() / ".12-0.moegrad-tmp") << "half";
  train(config, {.out = out, .resume = true, .task = &task});
  CHECK(!fs::exists(RunFolder(out).checkpoints() / ".12-0.moegrad-tmp"));
  CHECK(final_checkpoint(out) == whole);
  // A folder that cannot be read is not an empty one.
  fs::remove_all(RunFolder(out).checkpoints());
  write_file_atomic(RunFolder(out).checkpoints(), "a file");
  CHECK(error_of([&] {
          train(config, {.out = out, .resume = true, .task = &task});
        }).find("Not a directory") != std::string::npos);
}

TEST_CASE("run folder: more epochs are no extension of a run of so many steps") {
  const TemporaryFolder folder;
  TrainConfig config = small();
  config.steps = 5;
  const RunFolder run(folder / "run");
  run.start(config, false);
  CHECK(run.resumed({{"steps", "5"}}).steps == 5);
  CHECK(error_of([&] {
          run.resumed({{"epochs", "1000"}});
        }) ==
        "[train] the run in '" + run.path().string() +
            "' ends after 5 steps, whatever its epochs. Leave --epochs out, or start another run "
            "from it with --from " +
            run.path().string() + ".");
}

TEST_CASE("run folder: a folder in use is refused, by name") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  const fs::path out = folder / "run";
  fs::create_directory(out);
  const std::string expected = fmt::format(
      "[lock] the folder '{}' is in use by process {}. Wait until it has ended, or "
      "choose another folder with --out.",
      out.string(), ::getpid());
  {
    const FolderLock lock(out);
    for (const bool force : {false, true}) {
      CHECK(error_of([&] { train(config, {.out = out, .force = force, .task = &task}); }) ==
            expected);
    }
  }
  train(config, {.out = out, .task = &task});
  {
    const FolderLock lock(out);
    CHECK(error_of([&] { train(config, {.out = out, .resume = true, .task = &task}); }) ==
          expected);
  }
  TrainConfig other = config;
  other.seed += 1;
  CHECK(error_of([&] { train(other, {.out = out, .resume = true, .task = &task}); }) ==
        fmt::format("[train] the run in '{}' has another configuration. Resume with "
                    "RunFolder::resumed.",
                    out.string()));
}

TEST_CASE("run folder: --force removes the old run only where the new one can begin") {
  const TemporaryFolder folder;
  const TrainConfig config = small();
  const Task task = small_task();
  const RunFolder run(folder / "run");
  train(config, {.out = run.path(), .task = &task});
  const auto start_over = [&] {
    return error_of([&] { train(config, {.out = run.path(), .force = true, .task = &task}); });
  };
  const auto whole = [&] {
    return path_exists(run.config()) && path_exists(run.metrics()) &&
           Checkpoints(run.checkpoints(), 2, "{}").list().size() >= 2;
  };
  const fs::path at_checkpoint = run.checkpoints() / "step-00000001.safetensors";
  fs::create_directory(at_checkpoint);
  CHECK(start_over() ==
        fmt::format("[train] '{}' is a folder, at the name of a checkpoint. Move it away.",
                    at_checkpoint.string()));
  CHECK(whole());
  CHECK(path_exists(run.result()));
  fs::remove(at_checkpoint);
  {
    const test::FileSizeLimit none(0);
    CHECK(start_over().find("File too large") != std::string::npos);
  }
  CHECK(whole());
  CHECK(path_exists(run.result()));
  CHECK(error_of([&] {
          train(config, {.out = run.path(),
                         .force = true,
                         .ready = [] { fail("test", "No."); },
                         .task = &task});
        }) == "[test] No.");
  CHECK(path_exists(run.result()));
  const std::string metrics = read_file(run.metrics());
  fs::remove(run.metrics());
  fs::create_directory(run.metrics());
  CHECK(start_over() == fmt::format("[write] '{}' is not a regular file. Choose another path.",
                                    run.metrics().string()));
  CHECK(whole());
  fs::remove(run.metrics());
  CHECK(start_over() == "no error");
  CHECK(fs::exists(run.result()));
}

// `rm -rf`, or a rename, and a second run while the first one trains.
TEST_CASE("run folder: a run whose folder another one has taken ends without writing into it") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  TrainConfig config = small();
  config.epochs = 1000;
  config.checkpoint_every = 1;
  const Task task = small_task();
  for (const bool rename : {false, true}) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const std::string error =
          error_of([&] { train(config, {.out = out, .threads = 1, .task = &task}); });
      // A removal may come to a file that is being written before it comes to the lock.
      const bool right = rename ? error.starts_with("[lock] ") : error != "no error";
      ::_exit(right ? 0 : 1);
    }
    while (!Checkpoints(RunFolder(out).checkpoints(), 1, "{}").newest()) ::usleep(1000);
    // Between two system calls of a removal the first one may make a file; then it is repeated.
    while (fs::exists(out)) {
      std::error_code ignored;
      if (rename) {
        fs::rename(out, folder / "old", ignored);
      } else {
        fs::remove_all(out, ignored);
      }
    }
    fs::create_directory(out);
    {
      const FolderLock second(out);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      CHECK(status == 0);
      CHECK(second.held());
      CHECK(files_in(out).size() == 1);
    }
    fs::remove_all(out);
  }
}

}  // namespace
}  // namespace moegrad
