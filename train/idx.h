#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace moegrad {

// An array of unsigned bytes, row-major.
struct IdxArray {
  std::vector<std::int64_t> sizes;
  std::vector<unsigned char> values;
};

// What is accepted of an array that may be anything.
struct IdxLimits {
  std::uint64_t bytes = 100'000'000;
  std::int64_t rows = 1'000'000;  // the first size
  std::uint64_t row = 1 << 16;    // bytes of a row: the product of the other sizes
};

// A gzip file of the IDX format of the MNIST family: the magic number 0x000008RR of unsigned bytes
// with RR axes, one size for each axis, the elements; numbers are big-endian u32. `rank` is the
// number of axes to expect, 1 to 255. The sizes are held against the limits, and against what a
// file of its length can unpack to, before memory for the elements is taken; no more than they say
// is unpacked.
IdxArray read_idx(const std::filesystem::path& path, int rank, const IdxLimits& limits = {});

}  // namespace moegrad
