#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace moegrad {

// A regular file opened for reading. Errors name the file and the system's reason.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Its size in bytes when it was opened.
  std::uint64_t size() const { return size_; }
  // Fills `out` from the bytes [offset, offset + out.size()); an error where the file ends before.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t size_ = 0;
};

// All bytes of a regular file.
std::string read_file(const std::filesystem::path& path);

// Makes the chunks, one after the other, the content of the file: it has its old content or the new
// one at every moment, also when the machine stops. Written to a temporary file of the same folder,
// synchronised, renamed. On an error (no space, no permission) the temporary file is removed and
// the old file is what it was. A symbolic link stays and the file it points to is replaced.
void write_file_atomic(const std::filesystem::path& path, std::span<const std::string_view> chunks);
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

}  // namespace moegrad
