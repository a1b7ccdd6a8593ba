#include "train/idx.h"

#include <limits>
#include <span>

#include <fmt/format.h>

#include "tensor/error.h"
#include "train/gzip.h"

namespace moegrad {
namespace {

std::uint32_t big_endian(std::span<const unsigned char> bytes, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | bytes[offset + i];
  return value;
}

// The product of all sizes but the first, or 2^64 - 1 where it is no less.
std::uint64_t row_of(const std::vector<std::int64_t>& sizes) {
  std::uint64_t row = 1;
  for (std::size_t i = 1; i < sizes.size(); ++i) {
    if (__builtin_mul_overflow(row, static_cast<std::uint64_t>(sizes[i]), &row)) {
      return std::numeric_limits<std::uint64_t>::max();
    }
  }
  return row;
}

}  // namespace

IdxArray read_idx(const std::filesystem::path& path, int rank, const IdxLimits& limits) {
  GzipFile file(path);
  std::vector<unsigned char> header(4 + 4 * static_cast<std::size_t>(rank));
  if (const std::size_t got = file.read(header); got < header.size()) {
    fail("idx", "{}: {} bytes; its header has {}. Fetch it again.", file.name(), got,
         header.size());
  }
  const std::uint32_t expected = 0x0800U + static_cast<std::uint32_t>(rank);
  if (const std::uint32_t magic = big_endian(header, 0); magic != expected) {
    fail("idx",
         "{}: byte 0: magic number {:#010x}, not {:#010x} (unsigned bytes, {} axes). Is it "
         "the right file?",
         file.name(), magic, expected, rank);
  }
  IdxArray array;
  std::uint64_t count = 1;
  bool overflow = false;
  for (std::size_t offset = 4; offset < header.size(); offset += 4) {
    const std::uint32_t size = big_endian(header, offset);
    array.sizes.push_back(size);
    overflow = __builtin_mul_overflow(count, std::uint64_t{size}, &count) || overflow;
  }
  const std::string sizes = fmt::format("{}", fmt::join(array.sizes, " x "));
  const std::uint64_t row = row_of(array.sizes);
  if (overflow || count > limits.bytes || array.sizes[0] > limits.rows || row > limits.row) {
    fail("idx",
         "{}: byte 4: sizes {}. {} rows of {} bytes, {} in all, are the most; is it the right "
         "file?",
         file.name(), sizes, limits.rows, limits.row, limits.bytes);
  }
  if (count > file.most_bytes()) {
    fail("idx", "{}: byte 4: sizes {}, where the file can unpack to {} bytes. Fetch it again.",
         file.name(), sizes, file.most_bytes());
  }
  array.values.resize(count);
  const std::size_t got = file.read(array.values);
  // One byte more than there should be: also reads the checksum at the end.
  unsigned char next = 0;
  const bool longer = got == count && file.read({&next, 1}) == 1;
  if (got != count || longer) {
    fail("idx", "{}: byte 4: sizes {} for {}{} bytes of elements. Fetch it again.", file.name(),
         sizes, longer ? "more than " : "", got);
  }
  return array;
}

}  // namespace moegrad
