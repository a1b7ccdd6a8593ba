#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
// the old file is what it was. A symbolic link stays and the file it points to is replaced, or made
// where there is none. Temporary files that killed processes left in the folder are removed.
void write_file_atomic(const std::filesystem::path& path, std::span<const std::string_view> chunks);
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);
// Calls `before` when the new content is safe in the temporary file; where it throws, the old file
// stays.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes,
                       const std::function<void()>& before);
// `.NUMBER-NUMBER` and this: the name of a temporary file.
inline constexpr std::string_view kTemporarySuffix = ".moegrad-tmp";

// For long work whose results are written at its end: the Error of write_file_atomic, before it.
void require_writable(const std::filesystem::path& path);

// True where both paths name one file, or would: it need not be there, and a link may point to it.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);
// True where `path` is `folder`, or lies below it.
bool lies_in(const std::filesystem::path& path, const std::filesystem::path& folder);

// A file that grows: what is appended is in it at once, and survives the end of the program.
class AppendedFile {
 public:
  explicit AppendedFile(std::filesystem::path path);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  void append(std::string_view bytes) const;

 private:
  std::filesystem::path path_;
  int descriptor_;
};

// For errors: the system's words for the code of an error, and what helps against it in writing.
std::string system_reason(int code);
std::string_view writing_advice(int code);

}  // namespace moegrad
