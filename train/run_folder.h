#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/files.h"
#include "train/config.h"

namespace moegrad {

// The folder of one run: config.json, metrics.jsonl, result.json, checkpoints/; of one that was
// extended after it had finished also its earlier results, result-step-00001234.json.
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.json"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path result() const { return path_ / "result.json"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }

  bool holds_run() const;

  // Makes what is missing of the folders; removes what a killed run left half written.
  void prepare() const;

  // Prepares the folder for a new run and writes config.json. Where it holds a run already: an
  // Error, or with `force` that run is removed, when the new config.json
  // is written and nothing else is in the way.
  void start(const TrainConfig& config, bool force) const;

  // The configuration of the run in the folder, with `settings` that agree with it, or ask for more
  // epochs; an Error where there is no run, or where a setting that changes parameters contradicts
  // it.
  TrainConfig resumed(const Settings& settings) const;

  // Makes it a run of so many epochs. A kill at any moment leaves a run of the old or the new
  // number, and its result: where it had finished, under the name of its last step.
  void extend(std::int64_t epochs) const;

 private:
  std::vector<std::filesystem::path> earlier_results() const;

  std::filesystem::path path_;
};

// Lines of JSON, appended one by one.
class MetricsLog {
 public:
  // Keeps the whole lines of `file` whose "step" is at most `step`, and goes on behind them.
  MetricsLog(const std::filesystem::path& file, std::int64_t step)
      : seconds_(keep(file, step)), file_(file) {}

  void line(std::string_view json) const { file_.append(std::string(json) + "\n"); }
  // "seconds" of the last line that was kept; 0 where there is none.
  double seconds() const { return seconds_; }

 private:
  static double keep(const std::filesystem::path& file, std::int64_t step);

  double seconds_;
  AppendedFile file_;
};

}  // namespace moegrad
