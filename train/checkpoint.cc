#include "train/checkpoint.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <nlohmann/json.hpp>
#include <zlib.h>

#include "tensor/folders.h"
#include "tensor/kernels.h"
#include "tensor/parse.h"
#include "train/task_shape.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kSuffix = ".safetensors";

// The step of a checkpoint's name; -1 for other files.
std::int64_t step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.size() <= kPrefix.size() + kSuffix.size() || !name.starts_with(kPrefix) ||
      !name.ends_with(kSuffix)) {
    return -1;
  }
  const std::size_t digits = name.size() - kPrefix.size() - kSuffix.size();
  return parse_number<std::int64_t>(std::string_view(name).substr(kPrefix.size(), digits), 0,
                                    kMostSteps)
      .value_or(-1);
}

const std::string& metadata(const TensorFile& file, std::string_view key) {
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end()) {
    fail("checkpoint", "{}: no '{}' in its metadata. It was not written by a training run.",
         file.path.string(), key);
  }
  return found->second;
}

template <class T>
T metadata_number(const TensorFile& file, std::string_view key, T low, T high) {
  const std::string& text = metadata(file, key);
  if (const auto value = parse_number<T>(text, low, high)) return *value;
  fail("checkpoint", "{}: '{}' is '{}', no whole number from {} to {}. Is the file damaged?",
       file.path.string(), key, text, low, high);
}
// Steps and epochs: there is room for one more.
std::int64_t metadata_count(const TensorFile& file, std::string_view key) {
  return metadata_number<std::int64_t>(file, key, 0, kMostSteps);
}
std::uint64_t metadata_word(const TensorFile& file, std::string_view key) {
  return metadata_number<std::uint64_t>(file, key, 0, std::numeric_limits<std::uint64_t>::max());
}

// Names the first setting that differs. What an older file does not have was as the default is. A run
// may have been extended since: then the checkpoint has fewer epochs.
void require_same_config(const Checkpoint& checkpoint, const std::string& here_text) {
  nlohmann::json there = nlohmann::json::parse(metadata(checkpoint.file, "config"));
  if (there.contains("aux")) there["aux"] = stored_run(checkpoint.settings).aux;
  const nlohmann::json here = nlohmann::json::parse(here_text);
  const nlohmann::json defaults = nlohmann::json::parse(to_json(TrainConfig(), true));
  for (const auto& [key, value] : defaults.items()) there.emplace(key, value);
  for (const auto& [key, value] : here.items()) {
    const auto found = there.find(key);
    if (key == "epochs" && found != there.end() && *found < value) continue;
    if (found == there.end() || *found != value) {
      fail("checkpoint", "{}: '{}' is {} there and {} here. Train with what it was made with.",
           checkpoint.file.path.string(), key, found == there.end() ? "missing" : found->dump(),
           value.dump());
    }
  }
}

// Of the parameters by name.
std::map<std::string, std::int64_t> read_fewer_steps(const TensorFile& file) {
  std::map<std::string, std::int64_t> fewer;
  const auto text = file.metadata.find("fewer_steps");
  if (text == file.metadata.end()) return fewer;
  const nlohmann::json object = nlohmann::json::parse(text->second, nullptr, false);
  const auto number = [](const nlohmann::json& n) {
    return n.is_number_unsigned() && n.get<std::uint64_t>() <= kMostSteps;
  };
  if (!object.is_object() || !std::ranges::all_of(object, number)) {
    fail("checkpoint", "{}: 'fewer_steps' is no JSON object of whole numbers. Is the file damaged?",
         file.path.string());
  }
  for (const auto& [name, steps] : object.items()) fewer[name] = steps.get<std::int64_t>();
  return fewer;
}

struct CheckpointEntry {
  std::string name;
  Tensor tensor;
};

std::vector<CheckpointEntry> targets(const Parameters& parameters, const Optimiser& optimiser) {
  std::vector<CheckpointEntry> all;
  for (const Parameter& p : parameters) all.push_back({"parameter." + p.name, p.value});
  for (const auto& [name, tensor] : optimiser.state()) all.push_back({"optimiser." + name, tensor});
  return all;
}

}  // namespace

std::string checksum_of(const TensorFile& file) {
  uLong crc = ::crc32(0, nullptr, 0);
  const auto add = [&](const void* data, std::size_t bytes) {
    crc = ::crc32_z(crc, static_cast<const Bytef*>(data), bytes);
  };
  for (const auto& [key, value] : file.metadata) {
    if (key == "checksum") continue;
    add(key.data(), key.size() + 1);
    add(value.data(), value.size() + 1);
  }
  for (const auto& [name, tensor] : file.tensors) {
    const std::string head = fmt::format("{} {}", name, tensor.shape());
    add(head.data(), head.size() + 1);
    add(tensor.raw(), tensor.bytes());
  }
  return fmt::format("{:08x}", crc);
}

Checkpoint read_checkpoint(const fs::path& path) {
  Checkpoint c;
  c.file = read_safetensors(path);
  const auto version = metadata_count(c.file, "version");
  if (version != Checkpoints::kVersion) {
    fail("checkpoint",
         "{}: format version {}; this program reads version {}. Use the program that wrote it, or "
         "train again.",
         path.string(), version, Checkpoints::kVersion);
  }
  if (metadata(c.file, "checksum") != checksum_of(c.file)) {
    fail("checkpoint", "{}: its checksum is {}, its content has {}. The file is damaged.",
         path.string(), metadata(c.file, "checksum"), checksum_of(c.file));
  }
  c.state.step = metadata_count(c.file, "step");
  c.state.epoch = metadata_count(c.file, "epoch");
  c.state.batch = metadata_count(c.file, "batch");
  c.state.rng = {metadata_word(c.file, "rng_seed"), metadata_word(c.file, "rng_stream"),
                 metadata_word(c.file, "rng_position")};
  c.optimiser_steps = metadata_count(c.file, "optimiser_steps");
  c.fewer_steps = read_fewer_steps(c.file);
  if (const auto on = c.file.metadata.find("device"); on != c.file.metadata.end()) {
    c.device = on->second;
  }
  c.settings = read_settings(metadata(c.file, "config"), path.string());
  if (const auto task = c.file.metadata.find("task"); task != c.file.metadata.end()) {
    c.task = read_shape(task->second, path.string());
  }
  if (const auto data = c.file.metadata.find("data"); data != c.file.metadata.end()) {
    c.data = data->second;
  }
  return c;
}

void require_sizes(const TensorFile& file, const LayerConfig& layer, DType dtype) {
  const auto of_experts = [](const auto& entry) {
    return entry.first.starts_with("parameter.") && entry.first.ends_with("experts.w1");
  };
  const auto found = std::ranges::find_if(file.tensors, of_experts);
  if (found == file.tensors.end()) {
    fail("checkpoint", "{}: it has no mixture layer. Is the file damaged?", file.path.string());
  }
  const Tensor& w1 = found->second;
  const Shape wanted = first_shape(layer);
  if (!(w1.shape() == wanted) || w1.dtype() != dtype) {
    fail("checkpoint",
         "{}: the experts are {} {} there, and its configuration asks for {} {}. Is the file "
         "damaged?",
         file.path.string(), name_of(w1.dtype()), w1.shape(), name_of(dtype), wanted);
  }
}

std::size_t budget_of(const TensorFile& file) {
  std::size_t bytes = std::size_t{1} << 20;
  for (const auto& [name, tensor] : file.tensors) bytes += 8 * tensor.bytes();
  return bytes;
}

const Tensor& stored_tensor(const TensorFile& file, std::string_view name, const Tensor& like) {
  const Tensor* const there = file.find(name);
  if (there == nullptr) {
    fail("checkpoint",
         "{}: no tensor '{}', which this model has. Train with the model that it was made with.",
         file.path.string(), name);
  }
  if (!(there->shape() == like.shape()) || there->dtype() != like.dtype()) {
    fail("checkpoint",
         "{}: '{}' is {} {} there and {} {} here. Train with the sizes that it was made with.",
         file.path.string(), name, name_of(there->dtype()), there->shape(), name_of(like.dtype()),
         like.shape());
  }
  return *there;
}

Checkpoints::Checkpoints(fs::path folder, std::int64_t keep, std::string config, std::string task,
                         std::string data)
    : folder_(std::move(folder)),
      keep_(keep),
      config_(std::move(config)),
      task_(std::move(task)),
      data_(std::move(data)) {}

fs::path Checkpoints::save(const TrainState& state, const Parameters& parameters,
                           const Optimiser& optimiser) const {
  TensorFile file;
  for (const CheckpointEntry& t : targets(parameters, optimiser))
    file.tensors.emplace(t.name, t.tensor.to(Device::cpu));
  file.metadata = {
      {"version", std::to_string(kVersion)},
      {"step", std::to_string(state.step)},
      {"epoch", std::to_string(state.epoch)},
      {"batch", std::to_string(state.batch)},
      {"rng_seed", std::to_string(state.rng.seed)},
      {"rng_stream", std::to_string(state.rng.stream)},
      {"rng_position", std::to_string(state.rng.position)},
      {"optimiser_steps", std::to_string(optimiser.steps())},
      {"device", std::string(kernels_of(parameters.device()))},
      {"config", nlohmann::json::parse(config_).dump()},
  };
  if (const auto fewer = optimiser.fewer_steps(); !fewer.empty()) {
    file.metadata["fewer_steps"] = nlohmann::json(fewer).dump();
  }
  if (!task_.empty()) file.metadata["task"] = task_;
  if (!data_.empty()) file.metadata["data"] = data_;
  file.metadata["checksum"] = checksum_of(file);
  const fs::path path = folder_ / fmt::format("{}{:08}{}", kPrefix, state.step, kSuffix);
  write_safetensors(path, file);
  const std::vector<fs::path> all = list();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i) {
    std::error_code ignored;
    if (all[i] != path) fs::remove(all[i], ignored);
  }
  return path;
}

std::vector<fs::path> Checkpoints::list() const {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  for (const fs::path& path : files_in(folder_)) {
    const std::int64_t step = step_of(path);
    if (step >= 0) found.emplace_back(step, path);
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::optional<fs::path> Checkpoints::newest() const {
  const std::vector<fs::path> all = list();
  return all.empty() ? std::nullopt : std::optional(all.back());
}

Checkpoint Checkpoints::read(const fs::path& path) const {
  Checkpoint checkpoint;
  try {
    checkpoint = read_checkpoint(path);
  } catch (const Error& error) {
    std::string other;
    for (const fs::path& p : list()) {
      if (p != path) other = p.filename().string();
    }
    if (other.empty()) throw;
    throw Error(fmt::format("{} Or delete it to go on from '{}'.", error.what(), other));
  }
  require_same_config(checkpoint, config_);
  return checkpoint;
}

void Checkpoints::restore(const Checkpoint& checkpoint, Parameters& parameters,
                          Optimiser& optimiser) {
  const std::vector<CheckpointEntry> wanted = targets(parameters, optimiser);
  std::vector<const Tensor*> stored;
  for (const CheckpointEntry& t : wanted) {
    stored.push_back(&stored_tensor(checkpoint.file, t.name, t.tensor));
  }
  if (checkpoint.file.tensors.size() != wanted.size()) {
    fail("checkpoint",
         "{}: {} tensors; this model has {}. Train with the model that it was made "
         "with.",
         checkpoint.file.path.string(), checkpoint.file.tensors.size(), wanted.size());
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Tensor& target = wanted[i].tensor;
    kernels(target.device()).copy(stored[i]->to(target.device()), target);
  }
  optimiser.set_steps(checkpoint.optimiser_steps, checkpoint.fewer_steps);
}

std::vector<std::string> Checkpoints::copy_common(const Checkpoint& checkpoint,
                                                  Parameters& parameters, Optimiser& optimiser) {
  const auto common = [&](const std::string& name, const Tensor& like) -> const Tensor* {
    const Tensor* const there = checkpoint.file.find(name);
    const bool same =
        there != nullptr && there->shape() == like.shape() && there->dtype() == like.dtype();
    return same ? there : nullptr;
  };
  std::vector<std::string> missing;
  bool learned = false;  // a matrix is there: vectors have a shape of their own rarely
  for (const Parameter& p : parameters) {
    if (!p.trained) continue;
    const bool there = common("parameter." + p.name, p.value) != nullptr;
    if (!there) missing.push_back(p.name);
    learned = learned || (there && p.value.rank() > 1);
  }
  if (!learned) {
    fail("checkpoint",
         "{}: none of its matrices is one of this model, by name, shape and type. Give one of its "
         "kind and sizes.",
         checkpoint.file.path.string());
  }
  for (const CheckpointEntry& t : targets(parameters, optimiser)) {
    const Tensor* const there = common(t.name, t.tensor);
    if (there != nullptr) kernels(t.tensor.device()).copy(there->to(t.tensor.device()), t.tensor);
  }
  std::map<std::string, std::int64_t> steps;
  std::int64_t most = 0;
  for (const auto& [name, moments] : optimiser.state()) {
    if (moments.numel() == 0) continue;  // of what is not trained
    const std::string parameter = name.substr(name.find('.') + 1);
    const bool known = common("optimiser." + name, moments) != nullptr;
    const auto own = checkpoint.fewer_steps.find(parameter);
    const bool fewer = own != checkpoint.fewer_steps.end();
    steps[parameter] = !known ? 0 : fewer ? own->second : checkpoint.optimiser_steps;
    most = std::max(most, steps[parameter]);
  }
  std::erase_if(steps, [&](const auto& entry) { return entry.second == most; });
  optimiser.set_steps(most, steps);
  return missing;
}

void Checkpoints::remove_all() const {
  for (const fs::path& path : list()) remove_file(path);
}

}  // namespace moegrad
