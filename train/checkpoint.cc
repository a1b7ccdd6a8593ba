#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>
#include <zlib.h>

#include "tensor/folders.h"
#include "tensor/kernels.h"
#include "tensor/safetensors.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kSuffix = ".safetensors";

template <class T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// The step of a checkpoint's name; -1 for other files.
std::int64_t step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  std::int64_t step = -1;
  if (name.size() <= kPrefix.size() + kSuffix.size() || !name.starts_with(kPrefix) ||
      !name.ends_with(kSuffix) ||
      !parse_number(std::string_view(name).substr(kPrefix.size(),
                                                  name.size() - kPrefix.size() - kSuffix.size()),
                    step)) {
    return -1;
  }
  return step;
}

// CRC-32 of names, shapes and elements in the order of the names, and of the metadata.
std::string checksum(const TensorFile& file) {
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

const std::string& metadata(const TensorFile& file, std::string_view key) {
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end()) {
    fail("checkpoint", "{}: no '{}' in its metadata. It was not written by a training run.",
         file.path.string(), key);
  }
  return found->second;
}

template <class T>
T metadata_number(const TensorFile& file, std::string_view key) {
  const std::string& text = metadata(file, key);
  T value = 0;
  if (!parse_number(text, value)) {
    fail("checkpoint", "{}: '{}' is '{}'. Is the file damaged?", file.path.string(), key, text);
  }
  return value;
}

// Names the first setting that differs.
void require_same_config(const TensorFile& file, const std::string& here_text) {
  const nlohmann::json there = nlohmann::json::parse(metadata(file, "config"), nullptr, false);
  const nlohmann::json here = nlohmann::json::parse(here_text);
  if (!there.is_object()) {
    fail("checkpoint", "{}: its configuration is no JSON object. Is the file damaged?",
         file.path.string());
  }
  for (const auto& [key, value] : here.items()) {
    const auto found = there.find(key);
    if (found == there.end() || *found != value) {
      fail("checkpoint", "{}: '{}' is {} there and {} here. Train with what it was made with.",
           file.path.string(), key, found == there.end() ? "missing" : found->dump(), value.dump());
    }
  }
}

struct Target {
  std::string name;
  Tensor tensor;
};

std::vector<Target> targets(const Parameters& parameters, const Optimiser& optimiser) {
  std::vector<Target> all;
  for (const Parameter& p : parameters) all.push_back({"parameter." + p.name, p.value});
  for (const auto& [name, tensor] : optimiser.state()) all.push_back({"optimiser." + name, tensor});
  return all;
}

}  // namespace

Checkpoints::Checkpoints(fs::path folder, std::int64_t keep, std::string config)
    : folder_(std::move(folder)), keep_(keep), config_(std::move(config)) {}

fs::path Checkpoints::save(const TrainState& state, const Parameters& parameters,
                           const Optimiser& optimiser) const {
  TensorFile file;
  for (const Target& t : targets(parameters, optimiser)) file.tensors.emplace(t.name, t.tensor);
  file.metadata = {
      {"version", std::to_string(kVersion)},
      {"step", std::to_string(state.step)},
      {"epoch", std::to_string(state.epoch)},
      {"batch", std::to_string(state.batch)},
      {"rng_seed", std::to_string(state.rng.seed)},
      {"rng_stream", std::to_string(state.rng.stream)},
      {"rng_position", std::to_string(state.rng.position)},
      {"optimiser_steps", std::to_string(optimiser.steps())},
      {"config", nlohmann::json::parse(config_).dump()},
  };
  file.metadata["checksum"] = checksum(file);
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

TrainState Checkpoints::load(const fs::path& path, Parameters& parameters,
                             Optimiser& optimiser) const {
  TensorFile file;
  try {
    file = read_safetensors(path);
    const auto version = metadata_number<int>(file, "version");
    if (version != kVersion) {
      fail("checkpoint",
           "{}: format version {}; this program reads version {}. Use the program "
           "that wrote it, or train again.",
           path.string(), version, kVersion);
    }
    if (metadata(file, "checksum") != checksum(file)) {
      fail("checkpoint", "{}: its checksum is {}, its content has {}. The file is damaged.",
           path.string(), metadata(file, "checksum"), checksum(file));
    }
  } catch (const Error& error) {
    std::string other;
    for (const fs::path& p : list()) {
      if (p != path) other = p.filename().string();
    }
    if (other.empty()) throw;
    throw Error(fmt::format("{} Or delete it to go on from '{}'.", error.what(), other));
  }
  require_same_config(file, config_);
  const std::vector<Target> wanted = targets(parameters, optimiser);
  for (const Target& t : wanted) {
    const Tensor* there = file.find(t.name);
    if (there == nullptr) {
      fail("checkpoint",
           "{}: no tensor '{}', which this model has. Train with the model that it "
           "was made with.",
           path.string(), t.name);
    }
    if (!(there->shape() == t.tensor.shape()) || there->dtype() != t.tensor.dtype()) {
      fail("checkpoint",
           "{}: '{}' is {} {} there and {} {} here. Train with the sizes that it was "
           "made with.",
           path.string(), t.name, name_of(there->dtype()), there->shape(),
           name_of(t.tensor.dtype()), t.tensor.shape());
    }
  }
  if (file.tensors.size() != wanted.size()) {
    fail("checkpoint",
         "{}: {} tensors; this model has {}. Train with the model that it was made "
         "with.",
         path.string(), file.tensors.size(), wanted.size());
  }
  TrainState state;
  state.step = metadata_number<std::int64_t>(file, "step");
  state.epoch = metadata_number<std::int64_t>(file, "epoch");
  state.batch = metadata_number<std::int64_t>(file, "batch");
  state.rng = {metadata_number<std::uint64_t>(file, "rng_seed"),
               metadata_number<std::uint64_t>(file, "rng_stream"),
               metadata_number<std::uint64_t>(file, "rng_position")};
  const auto optimiser_steps = metadata_number<std::int64_t>(file, "optimiser_steps");
  for (const auto& [key, value] : {std::pair("step", state.step),
                                   {"epoch", state.epoch},
                                   {"batch", state.batch},
                                   {"optimiser_steps", optimiser_steps}}) {
    if (value < 0) {
      fail("checkpoint", "{}: '{}' is {}. Is the file damaged?", path.string(), key, value);
    }
  }
  for (const Target& t : wanted) {
    kernels(t.tensor.device()).copy(*file.find(t.name), t.tensor);
  }
  optimiser.set_steps(optimiser_steps);
  return state;
}

void Checkpoints::remove_all() const {
  for (const fs::path& path : list()) remove_file(path);
}

}  // namespace moegrad
