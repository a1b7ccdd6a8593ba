#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/files.h"

struct z_stream_s;  // of zlib

namespace moegrad {

// The unpacked bytes of a gzip file of one or more members, in order, as many as are asked for.
class GzipFile {
 public:
  explicit GzipFile(const std::filesystem::path& path);

  std::string name() const { return file_.path().string(); }
  // As many bytes as a file of this length can unpack to, and no fewer.
  std::uint64_t most_bytes() const;
  // Fills `out` as far as there are bytes; how many these were. An Error with file and offset where
  // the file is truncated, damaged or not gzip.
  std::size_t read(std::span<unsigned char> out);

 private:
  bool next_piece();

  InputFile file_;
  std::vector<unsigned char> piece_;
  std::unique_ptr<z_stream_s, void (*)(z_stream_s*)> zip_;
  std::uint64_t offset_ = 0;
  bool in_member_ = true;  // an empty file is a truncated one
  bool pending_ = false;   // zlib may have more of what it was given
};

}  // namespace moegrad
