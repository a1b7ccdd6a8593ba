// The bytes of .safetensors files, right and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "tensor/safetensors.h"
#include "tests/temporary_files.h"

namespace moegrad::test {

inline std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes.append(rest);
}

// A file of this header and n bytes of data.
inline std::string file_of(std::string_view header, std::size_t n) {
  return with_length(header.size(), header).append(n, '\0');
}

// Not synchronised with the disk, as the many files of a test need not be.
inline void write_quickly(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// The error of reading these bytes, without "[safetensors] FILE: ".
inline std::string read_error(std::string_view bytes) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.safetensors";
  write_quickly(path, bytes);
  const std::string error = error_of([&] { read_safetensors(path); });
  const std::string prefix = fmt::format("[safetensors] {}: ", path.string());
  return error.starts_with(prefix) ? error.substr(prefix.size()) : error;
}

}  // namespace moegrad::test
