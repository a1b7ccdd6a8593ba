// Helpers of the tests that read and write files.
#pragma once

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>

#include <stdlib.h>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace moegrad::test {

// A folder that disappears with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "moegrad-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("test", "cannot make '{}'.", name);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(path_),
                         std::filesystem::directory_iterator());
  }

 private:
  std::filesystem::path path_;
};

// The text of the Error that f throws; "no error" where it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// The bytes with a few random changes: values, cuts, insertions, repetitions. Number i of a seed is
// the same on every run.
inline std::string mutated(std::string bytes, std::uint64_t seed, std::uint64_t i) {
  const Rng rng{seed, i, 0};
  std::uint64_t next = 0;
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : rng.bits(next++) % n; };
  static constexpr std::string_view kTelling = "0123456789-{}[]\",:.e \\";
  for (std::uint64_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(bytes.size());
    switch (below(7)) {
      case 0:
        bytes.resize(at);
        break;
      case 1:
        bytes.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 2:
        bytes.erase(at, 1 + below(8));
        break;
      case 3:
        bytes.insert(at, std::string(bytes, below(bytes.size()), 1 + below(40)));
        break;
      case 4:
        if (!bytes.empty()) bytes[at] = kTelling[below(kTelling.size())];
        break;
      case 5:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      default:
        if (!bytes.empty()) bytes[at] = static_cast<char>(below(256));
        break;
    }
  }
  return bytes;
}

}  // namespace moegrad::test
