#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameters.h"
#include "tensor/rng.h"
#include "tensor/safetensors.h"
#include "train/config.h"
#include "train/dataset.h"
#include "train/optimiser.h"

namespace moegrad {

// The position of a run: what comes next.
struct TrainState {
  std::int64_t step = 0;   // steps made
  std::int64_t epoch = 0;  // of the next step, from 0
  std::int64_t batch = 0;  // of the next step within the epoch, from 0
  Rng rng = {};            // of the next step
};

// Whose kernels a device has, and so whose bits: the guarded one the cpu's.
inline std::string_view kernels_of(Device device) {
  return name_of(device == Device::guarded ? Device::cpu : device);
}

// A checkpoint as its file has it.
struct Checkpoint {
  TrainState state;
  std::int64_t optimiser_steps = 0;
  std::map<std::string, std::int64_t> fewer_steps = {};  // Optimiser::fewer_steps
  Settings settings;                                     // of the configuration
  std::string device;             // of kernels_of(); empty where an older file does not say
  std::optional<TaskShape> task;  // older files do not say
  std::string data;               // checksum_of(Task); likewise
  TensorFile file;
};
// What its metadata "checksum" has to be: the CRC-32 of names, shapes and elements in the order of
// the names, and of the other metadata, in hexadecimal.
std::string checksum_of(const TensorFile& file);
// The one way to read a checkpoint. An Error for another version; a checksum that is not that of
// the content; a number that is none, or not between 0 and kMostSteps; a configuration that is no
// JSON object of settings.
inline constexpr std::int64_t kMostSteps = (std::int64_t{1} << 53) - 1;
Checkpoint read_checkpoint(const std::filesystem::path& path);
// For whoever makes the model of a checkpoint, before it is made: an Error where the experts that
// the layer asks for are not those of the file; then the bytes of a pool::Budget to make it in,
// which bounds what only an option makes large.
void require_sizes(const TensorFile& file, const LayerConfig& layer, DType dtype);
std::size_t budget_of(const TensorFile& file);
// The tensor `name` of a checkpoint, as `like` asks for; an Error for another shape or type.
const Tensor& stored_tensor(const TensorFile& file, std::string_view name, const Tensor& like);

// Checkpoints of one run: safetensors files step-00001234.safetensors in a folder.
//   tensors   "parameter.NAME" (buffers too), "optimiser.SLOT.NAME"
//   metadata  version, step, epoch, batch, rng, optimiser_steps, device, config (JSON), task (JSON),
//             data, checksum; fewer_steps (JSON) where there are some
class Checkpoints {
 public:
  static constexpr int kVersion = 1;

  // `config`: a JSON object of what the parameters depend on; `task`: to_json(TaskShape); `data`:
  // checksum_of(Task). None is needed to list or remove.
  Checkpoints(std::filesystem::path folder, std::int64_t keep = 1, std::string config = "{}",
              std::string task = "", std::string data = "");

  // Writes atomically, then removes all but the newest `keep`. On an error all that were there
  // stay.
  std::filesystem::path save(const TrainState& state, const Parameters& parameters,
                             const Optimiser& optimiser) const;
  // From oldest to newest.
  std::vector<std::filesystem::path> list() const;
  std::optional<std::filesystem::path> newest() const;
  // read_checkpoint, and an Error for another configuration.
  Checkpoint read(const std::filesystem::path& path) const;
  // Copies into parameters and optimiser. Nothing of them is changed on an error: another set of
  // tensors, another shape or dtype.
  static void restore(const Checkpoint& checkpoint, Parameters& parameters, Optimiser& optimiser);
  // For another run that goes on from its parameters: copies those that have the same name, shape and
  // type, with their moments and the steps that these have seen; moments that it does not have, as
  // those of another optimiser, begin with 0 steps. Returns the names of the trained parameters that it
  // does not have, which stay as they are; an Error where it has none of their matrices.
  static std::vector<std::string> copy_common(const Checkpoint& checkpoint, Parameters& parameters,
                                              Optimiser& optimiser);
  void remove_all() const;

 private:
  std::filesystem::path folder_;
  std::int64_t keep_;
  std::string config_;
  std::string task_;
  std::string data_;
};

}  // namespace moegrad
