#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "train/config.h"
#include "train/model.h"

namespace moegrad {

// A model as a checkpoint holds it.
struct StoredModel {
  TrainConfig config;
  std::unique_ptr<Model> model;
  Parameters parameters;
  std::int64_t step = 0;
};

// The configuration in a checkpoint, read by read_checkpoint.
TrainConfig stored_config(const std::filesystem::path& checkpoint);
// For the data of a task: what they have to do with the model are widths and targets. Errors: those
// of read_checkpoint, and another set of parameters than the configuration asks for, which is found
// before the memory for them is taken: at most 1 MiB and 8 times the file's size.
StoredModel load_model(const std::filesystem::path& path, const Task& task,
                       Device device = Device::cpu);

}  // namespace moegrad
