// Folders of runs as moegrad train writes them, without training.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tensor/files.h"
#include "tensor/folders.h"

namespace moegrad::test {

struct WrittenRun {
  std::vector<double> losses;  // of its evaluations
  std::vector<double> norms = {2.0, 4.0};
  std::string config = "{}";
  // Of each step, and of each evaluation, as in the log.
  std::string load = "[[0.5,0.25,0.25],[0.2,0.2,0.6]]";
};

inline void write_run(const std::filesystem::path& path, const WrittenRun& run) {
  make_folder(path);
  std::string lines;
  const std::string load = run.load.empty() ? "" : ",\"layer_loads\":" + run.load;
  for (std::size_t i = 0; i < run.norms.size(); ++i) {
    lines += fmt::format("{{\"kind\":\"step\",\"step\":{},\"gradient_norm\":{}{}}}\n", i + 1,
                         run.norms[i], load);
  }
  for (std::size_t i = 0; i < run.losses.size(); ++i) {
    lines += fmt::format("{{\"kind\":\"evaluation\",\"step\":{},\"test_loss\":{}{}}}\n", i + 1,
                         run.losses[i], load);
  }
  write_file_atomic(path / "metrics.jsonl", lines);
  write_file_atomic(path / "config.json", run.config);
  write_file_atomic(path / "result.json", R"({"steps":10,"train_seconds":5.0})");
}

}  // namespace moegrad::test
