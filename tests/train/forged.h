// A checkpoint that somebody changed who knows its checksum.
#pragma once

#include <filesystem>
#include <string>

#include "train/checkpoint.h"

namespace moegrad::test {

inline void forge(const std::filesystem::path& path, const std::string& key,
                  const std::string& value) {
  TensorFile file = read_safetensors(path);
  file.metadata[key] = value;
  file.metadata["checksum"] = checksum_of(file);
  write_safetensors(path, file);
}

}  // namespace moegrad::test
