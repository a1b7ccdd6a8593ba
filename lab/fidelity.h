#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/dataset.h"
#include "train/model.h"

namespace moegrad {

// How an estimator's router gradient follows ste-dense's in a trained model, on one batch: of the
// gradient of "router.weight" for dL/dy of the model's own loss ("real") and for ones ("ones").
struct FidelityRow {
  std::int64_t step = 0;  // of the checkpoint
  int layer = 0;          // number of the mixture layer
  std::string estimator;
  double cosine_real = 0.0;
  double norm_ratio_real = 0.0;
  double cosine_ones = 0.0;
  double norm_ratio_ones = 0.0;
  // ||V - E|| / ||E|| over the experts that a token did not select: how far what stands for their
  // outputs is from these (1: nothing stands for them).
  double output_error = 0.0;
  Device device = Device::cpu;  // where it was computed
};
// An object; null for what is undefined.
std::string to_json(const FidelityRow& row);

// A model as a checkpoint holds it.
struct StoredModel {
  TrainConfig config;
  Parameters parameters;
  std::int64_t step = 0;
};
// The configuration in a checkpoint, read by read_checkpoint.
TrainConfig stored_config(const std::filesystem::path& checkpoint);
// Errors: those of read_checkpoint, and another set of parameters than the configuration asks for,
// which is found before the memory for them is taken: at most 1 MiB and 8 times the file's size.
StoredModel load_model(const std::filesystem::path& path, std::int64_t inputs, std::int64_t classes,
                       Device device = Device::cpu);

// Of each named estimator, on a batch of the training data in training, on the device of the model's
// parameters; the batch is on the host, of any floating type. Errors: a router that an estimator
// does not go with, or whose weights are not those of selected experts.
std::vector<FidelityRow> measure_fidelity(const StoredModel& model, const Batch& batch,
                                          const std::vector<std::string>& estimators,
                                          std::int64_t classes);

// Those that are not for a router of their own.
std::vector<std::string> comparable_estimators();

// Of each checkpoint, on a batch of so many tokens; with no estimator named, of the comparable
// ones.
std::vector<FidelityRow> study_fidelity(const std::vector<std::filesystem::path>& checkpoints,
                                        const Task& task,
                                        const std::vector<std::string>& estimators,
                                        std::int64_t batch, Device device = Device::cpu);

}  // namespace moegrad
