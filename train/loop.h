#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tensor/maths.h"
#include "train/config.h"
#include "train/dataset.h"
#include "train/evaluation.h"
#include "train/progress.h"

namespace moegrad {

// How to run, as opposed to what: but for rounding, which device and maths change, none of this
// changes a result.
struct RunOptions {
  std::filesystem::path out;  // the folder of the run
  // Go on from its newest checkpoint; config is then RunFolder::resumed. Where it has more epochs
  // than the run, the run is extended: from the next step on the learning rate is that of a run of
  // so many epochs (warm-up and schedule). What was trained before keeps the rates that it had.
  bool resume = false;
  bool force = false;           // start over in a folder that holds a run
  int threads = 0;              // 0: as threads() says
  Device device = Device::cpu;  // where it is computed; data, files and results are on the host
  // Steps are captured (tensor/captured.h): on a GPU each is one launch. An Error where the device
  // has no graphs, and where the router or the estimator computes something on the host.
  bool capture = false;
  Maths maths = Maths::exact;  // of products, all but exact on a cuda device alone
  // Becomes the number of a signal when the run is to stop: the step is finished and saved.
  const std::atomic<int>* stop = nullptr;
  Progress* progress = nullptr;
  // Called after each step, before `stop` is looked at. What it throws ends the run as an error
  // does: nothing more is saved.
  std::function<void(const ProgressView&)> after_step = {};
  // Called when the folder is there and locked, before anything in it is changed; may throw.
  std::function<void()> ready = [] {};
  // The data, instead of those of config.task.
  const Task* task = nullptr;
};

// By its name; an Error for any other.
Maths maths_named(const std::string& name);

struct TrainResult {
  Evaluation test;
  double train_seconds = 0.0;  // of steps and checkpoints, over all parts of a resumed run
  std::int64_t steps = 0;
  std::int64_t seed = 0;
  std::int64_t parameters = 0;
  Maths maths = Maths::exact;        // of the last part
  int signal = 0;                    // where it was stopped: `test` is not set
  std::filesystem::path checkpoint;  // the newest
  std::string data;                  // checksum_of(Task)
};
std::string to_json(const TrainResult& result, const TrainConfig& config);

// Trains and writes config.json, metrics.jsonl, checkpoints/ and, when finished, result.json. The
// parameters are a function of the config alone: not of threads, nor of being stopped and resumed
// (with the same maths: another one goes on from the same parameters and rounds in its own way).
TrainResult train(const TrainConfig& config, const RunOptions& options);

}  // namespace moegrad
