// Training on the device: the CPU's run within rounding, resumed on either.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <tuple>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "cuda/emulator/emulator.h"
#include "tensor/files.h"
#include "tests/temporary_files.h"
#include "train/checkpoint.h"
#include "train/loop.h"
#include "train/run_folder.h"

using namespace moegrad;
using test::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

// The sizes of the task vision: 25 steps of 32 rows an epoch.
Task images() {
  return make_synthetic(DType::f64, 3,
                        {.train_size = 800, .test_size = 64, .dimension = 784, .classes = 10});
}

TrainConfig config_of(const std::string& router, const std::string& estimator, int epochs) {
  TrainConfig config;
  config.task = "synthetic";
  config.router = router;
  config.estimator = estimator;
  config.experts = 4;
  config.width = 16;
  config.hidden = 16;
  config.epochs = epochs;
  config.batch = 32;
  config.log_every = 10;
  apply_settings(config, {{"dtype", "f64"}});
  return config;
}

std::map<std::string, Tensor> parameters_of(const fs::path& out) {
  const auto newest = Checkpoints(RunFolder(out).checkpoints(), 2, "{}").newest();
  REQUIRE(newest);
  std::map<std::string, Tensor> all;
  for (const auto& [name, tensor] : read_safetensors(*newest).tensors) all[name] = tensor;
  return all;
}

// The largest difference of an element of two runs' states, relative to the largest of its tensor.
double apart(const fs::path& a, const fs::path& b) {
  const auto left = parameters_of(a);
  const auto right = parameters_of(b);
  REQUIRE(left.size() == right.size());
  double worst = 0.0;
  for (const auto& [name, tensor] : left) {
    const std::vector<double> x = tensor.to_vector();
    const std::vector<double> y = right.at(name).to_vector();
    REQUIRE(x.size() == y.size());
    double size = 1e-300;
    for (const double v : x) size = std::fmax(size, std::abs(v));
    for (std::size_t i = 0; i < x.size(); ++i) {
      worst = std::fmax(worst, std::abs(x[i] - y[i]) / size);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("training: 100 steps on the device are the CPU's within rounding") {
  const Task task = images();
  for (const auto& [router, estimator] :
       {std::pair<std::string, std::string>{"top-k", "expert-group"},
        {"moesart", "sparse"},
        {"deepseek-v3", "ste-dense"}}) {
    CAPTURE(router);
    CAPTURE(estimator);
    const TemporaryFolder folder;
    const TrainConfig config = config_of(router, estimator, 4);
    train(config, {.out = folder / "cpu", .task = &task});
    const TrainResult there =
        train(config, {.out = folder / "cuda", .device = Device::cuda, .task = &task});
    CHECK(there.steps == 100);
    const double difference = apart(folder / "cpu", folder / "cuda");
    CAPTURE(difference);
    CHECK(difference < 1e-8);
    CHECK(difference > 0.0);  // not the CPU's kernels by mistake
  }
}

TEST_CASE(
    "training: a run goes on where it was, on its device to the bit, on another within rounding") {
  const Task task = images();
  const TemporaryFolder folder;
  const TrainConfig config = config_of("top-k", "expert-group", 1);
  // Returns what is said of it.
  const auto run = [&](const std::string& name, Device first, Device rest) {
    const std::atomic<int> stop{2};
    train(config, {.out = folder / name, .device = first, .stop = &stop, .task = &task});
    std::FILE* const file = std::fopen((folder / "said").c_str(), "w");
    {
      Progress said(file, Progress::Style::lines);
      train(
          config,
          {.out = folder / name, .resume = true, .device = rest, .progress = &said, .task = &task});
    }
    std::fclose(file);
    return read_file(folder / "said");
  };
  train(config, {.out = folder / "whole", .device = Device::cuda, .task = &task});
  CHECK(run("parts", Device::cuda, Device::cuda).find("within rounding") == std::string::npos);
  CHECK(apart(folder / "whole", folder / "parts") == 0.0);
  for (const auto& [name, first, rest] :
       {std::tuple{"from cpu", Device::cpu, Device::cuda}, {"to cpu", Device::cuda, Device::cpu}}) {
    CHECK(
        run(name, first, rest)
            .find(fmt::format("trained on the {} device so far: from here on, on the {} device, "
                              "the steps are those of that device within rounding, not to the bit",
                              name_of(first), name_of(rest))) != std::string::npos);
  }
  CHECK(apart(folder / "whole", folder / "from cpu") < 1e-9);
  CHECK(apart(folder / "whole", folder / "to cpu") < 1e-9);
}

TEST_CASE(
    "training: with TF32 and bf16 the losses of f32, on and after a resumption with another") {
  const Task task = make_synthetic(
      DType::f32, 3, {.train_size = 1280, .test_size = 400, .dimension = 4, .classes = 3});
  const TemporaryFolder folder;
  TrainConfig config = config_of("top-k", "expert-group", 4);
  config.lr = 1e-2;
  config.dtype = "f32";
  const auto run = [&](const std::string& name, Maths maths, const std::atomic<int>* stop = nullptr,
                       bool resume = false) {
    return train(config, {.out = folder / name,
                          .resume = resume,
                          .device = Device::cuda,
                          .maths = maths,
                          .stop = stop,
                          .task = &task});
  };
  const TrainResult exact = run("exact", Maths::exact);
  CHECK(exact.test.loss < 0.95);   // of a guess: 1.1
  constexpr double kBound = 0.02;  // relative; choices of experts flip, as with another seed
  for (const Maths maths : {Maths::tf32, Maths::bf16}) {
    CAPTURE(name_of(maths));
    const TrainResult there = run(std::string(name_of(maths)), maths);
    CHECK(there.maths == maths);
    CHECK(there.steps == 160);
    CAPTURE(exact.test.loss);
    CHECK(std::abs(there.test.loss - exact.test.loss) <= kBound * exact.test.loss);
    CHECK(apart(folder / "exact", folder / name_of(maths)) > 0.0);
  }
  const std::atomic<int> stop{2};
  run("both", Maths::exact, &stop);
  const TrainResult both = run("both", Maths::tf32, nullptr, true);
  CHECK(both.steps == 160);
  CHECK(std::abs(both.test.loss - exact.test.loss) <= kBound * exact.test.loss);
}

TEST_CASE("training: a steady step takes no memory of the system and waits once") {
  const Task task = images();
  const TemporaryFolder folder;
  const TrainConfig config = config_of("top-k", "ste-dense", 1);
  const cuda_emulator::Log log;
  std::size_t allocations = 0;
  std::size_t waits = 0;
  RunOptions options = {.out = folder / "run", .device = Device::cuda, .task = &task};
  options.after_step = [&](const ProgressView& view) {
    const std::size_t allocated = log.count("cudaMalloc");
    const std::size_t waited = log.waits();
    CAPTURE(view.step);
    if (view.step > 3 && view.step < 25) {
      CHECK(allocated == allocations);
      CHECK(waited == waits + 1);
    }
    allocations = allocated;
    waits = waited;
  };
  train(config, options);
}

// Of 800 rows in batches of 96 the last has 32: of each size the first step is launched, the second
// recorded.
TEST_CASE(
    "training: a captured run has the bits of one that is launched, and a step is one launch") {
  const Task task = images();
  for (const auto& [router, estimator] :
       {std::pair<std::string, std::string>{"moesart", "sparse"}, {"deepseek-v3", "ste-dense"}}) {
    CAPTURE(router);
    const TemporaryFolder folder;
    TrainConfig config = config_of(router, estimator, 3);
    config.batch = 96;
    train(config, {.out = folder / "launched", .device = Device::cuda, .task = &task});

    RunOptions options = {
        .out = folder / "captured", .device = Device::cuda, .capture = true, .task = &task};
    const cuda_emulator::Log log;
    std::size_t launches = 0;
    std::size_t replays = 0;
    std::size_t waits = 0;
    std::size_t allocations = 0;
    options.after_step = [&](const ProgressView& view) {
      CAPTURE(view.step);
      if (view.step > 2 && view.step < 9) {
        CHECK(log.count("cudaLaunchKernel") == launches);
        CHECK(log.count("cudaGraphLaunch") == replays + 1);
        CHECK(log.waits() == waits + 1);
        CHECK(log.count("cudaMalloc") == allocations);
      }
      launches = log.count("cudaLaunchKernel");
      replays = log.count("cudaGraphLaunch");
      waits = log.waits();
      allocations = log.count("cudaMalloc");
    };
    train(config, options);
    CHECK(replays == 27 - 2);
    CHECK(log.count("cudaStreamBeginCapture") == 2);
    CHECK(apart(folder / "launched", folder / "captured") == 0.0);
  }
}

TEST_CASE("training: what cannot be captured is refused before it begins") {
  const TemporaryFolder folder;
  const auto error_of = [&](const TrainConfig& config, Device device) {
    try {
      train(config, {.out = folder / "run", .device = device, .capture = true});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error_of(config_of("top-k", "sparse", 1), Device::cpu) ==
        "[train] the cpu has no graphs to capture steps in. Use cuda, or do not capture.");
  CHECK(
      error_of(config_of("priority", "sparse", 1), Device::cuda) ==
      "[train] the router 'priority' computes the weights in training on the host, and a captured "
      "step cannot wait for it. Use another, or do not capture.");
  TrainConfig config = config_of("categorical", "reinforce", 1);
  config.active = 1;
  apply_settings(
      config,
      {{"options.baseline", "built-in"}, {"options.samples", "2"}, {"options.copies", "2"}});
  CHECK(error_of(config, Device::cuda)
            .starts_with("[train] the estimator 'reinforce' computes the weights of the built-in "
                         "baseline on the host"));
  CHECK(!fs::exists(folder / "run"));
}
