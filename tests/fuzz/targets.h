#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moegrad::fuzz {

// A reader of files that are not trusted.
struct Target {
  const char* name;
  // Inputs that it accepts, which the others come from.
  std::vector<std::string> (*seeds)();
  // Change number i of an input. Some go past the first checks on purpose: a length or a checksum
  // is made good again, a changed text is packed well.
  std::string (*change)(const std::string& input, std::uint64_t seed, std::uint64_t i);
  // Reads the file: returns, or throws a moegrad::Error.
  void (*read)(const std::filesystem::path& file);
};

const std::vector<Target>& targets();

}  // namespace moegrad::fuzz
