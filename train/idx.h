#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace moegrad {

// Unpacks a gzip file of one or more members. An error with file and offset where it is truncated,
// damaged, not gzip, or unpacks to more than max_bytes, where the unpacking stops.
std::vector<unsigned char> read_gzip(const std::filesystem::path& path, std::size_t max_bytes);

// An array of unsigned bytes, row-major.
struct IdxArray {
  std::vector<std::int64_t> sizes;
  std::vector<unsigned char> values;
};

// The IDX format of the MNIST family: the magic number 0x000008RR of unsigned bytes with RR axes,
// one size for each axis, the elements; numbers are big-endian u32. `file` is for errors; rank is
// the number of axes to expect, 1 to 255.
IdxArray parse_idx(std::string_view file, std::vector<unsigned char> bytes, int rank);

// The same from a gzip file that unpacks to at most max_bytes.
IdxArray read_idx(const std::filesystem::path& path, int rank, std::size_t max_bytes);

}  // namespace moegrad
