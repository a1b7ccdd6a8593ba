#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "train/config.h"
#include "train/model.h"

namespace moegrad {

// A model as a checkpoint holds it.
struct StoredModel {
  TrainConfig config;
  std::unique_ptr<Model> model;
  TaskShape task;
  Parameters parameters;
  std::int64_t step = 0;
};

// The configuration in a checkpoint, read by read_checkpoint.
TrainConfig stored_config(const std::filesystem::path& checkpoint);
// The newest checkpoint of a run, by the run's folder; or the file itself.
std::filesystem::path checkpoint_of(const std::filesystem::path& run);
// All checkpoints of a run from oldest to newest, by the run's folder; or the file itself.
std::vector<std::filesystem::path> checkpoints_of(const std::filesystem::path& run);
// Errors: those of read_checkpoint, and another set of parameters than the configuration asks for,
// which is found before the memory for them is taken: at most 1 MiB and 8 times the file's size.
StoredModel load_model(const std::filesystem::path& path, Device device = Device::cpu);
// The configuration of a stored run with what changes no parameter, which the config.json of its folder
// has: where the data lie, how to evaluate. Of a checkpoint alone: its own, with defaults for those.
TrainConfig config_of(const std::filesystem::path& run, const StoredModel& stored);
// An Error where the data are not of the shape that the model was trained on.
void require_shape(const StoredModel& model, const TaskShape& data);

}  // namespace moegrad
