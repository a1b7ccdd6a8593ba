#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameters.h"
#include "tensor/rng.h"
#include "train/optimiser.h"

namespace moegrad {

// The position of a run: what comes next.
struct TrainState {
  std::int64_t step = 0;   // steps made
  std::int64_t epoch = 0;  // of the next step, from 0
  std::int64_t batch = 0;  // of the next step within the epoch, from 0
  Rng rng = {};            // of the next step
};

// Checkpoints of one run: safetensors files step-00001234.safetensors in a folder.
//   tensors   "parameter.NAME" (buffers too), "optimiser.SLOT.NAME"
//   metadata  version, step, epoch, batch, rng, optimiser_steps, config (JSON), checksum
class Checkpoints {
 public:
  static constexpr int kVersion = 1;

  // `config`: a JSON object of what the parameters depend on.
  Checkpoints(std::filesystem::path folder, std::int64_t keep, std::string config);

  // Writes atomically, then removes all but the newest `keep`. On an error all that were there
  // stay.
  std::filesystem::path save(const TrainState& state, const Parameters& parameters,
                             const Optimiser& optimiser) const;
  // From oldest to newest.
  std::vector<std::filesystem::path> list() const;
  std::optional<std::filesystem::path> newest() const;
  // Copies into parameters and optimiser. Nothing of them is changed on an error: a damaged file,
  // another version, another configuration, another set of tensors, another shape or dtype.
  TrainState load(const std::filesystem::path& path, Parameters& parameters,
                  Optimiser& optimiser) const;
  void remove_all() const;

 private:
  std::filesystem::path folder_;
  std::int64_t keep_;
  std::string config_;
};

}  // namespace moegrad
