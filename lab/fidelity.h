#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "train/dataset.h"
#include "train/stored_model.h"

namespace moegrad {

// How an estimator's router gradient follows ste-dense's in a trained model, on one batch: of the
// gradient of "router.weight" for dL/dy of the model's own loss ("real") and for ones ("ones").
struct FidelityRow {
  std::int64_t step = 0;  // of the checkpoint
  int layer = 0;          // number of the mixture layer, from the input on
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

// An estimator with options of its own, by a name for its rows.
struct FidelityVariant {
  std::string name;
  std::string estimator;
  std::map<std::string, std::string> options = {};
};
// Of each mixture layer and each variant: measure_fidelity of estimators says how.
std::vector<FidelityRow> measure_variants(const StoredModel& model, const Batch& batch,
                                          const std::vector<FidelityVariant>& variants);
// Of each mixture layer and each named estimator, on a batch of the training data in training, on the
// device of the model's parameters; the batch is on the host, of any floating type. In a causal model
// estimators have the options with which no token computes with what later ones did; means over groups, and
// running ones, are of the whole batch in the gradient. Errors: a router
// that an estimator does not go with, or whose weights are not those of selected experts.
std::vector<FidelityRow> measure_fidelity(const StoredModel& model, const Batch& batch,
                                          const std::vector<std::string>& estimators);

// Those that are not for a router of their own.
std::vector<std::string> comparable_estimators();

// Of each checkpoint, on a batch of so many examples (0: 512, of text 16); with no estimator named,
// of the comparable ones.
std::vector<FidelityRow> study_fidelity(const std::vector<std::filesystem::path>& checkpoints,
                                        const Task& task,
                                        const std::vector<std::string>& estimators,
                                        std::int64_t batch, Device device = Device::cpu);

}  // namespace moegrad
