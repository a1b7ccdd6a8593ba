#include "train/idx.h"

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <zlib.h>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

// The unpacked bytes of a gzip file of one or more members, in order.
class GzipFile {
 public:
  explicit GzipFile(const std::filesystem::path& path) : file_(path), piece_(kPiece) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (inflateInit2(&zip_, kGzipOnly) != Z_OK) {
      fail("gzip", "zlib cannot start. Is there memory left?");
    }
  }
  ~GzipFile() { inflateEnd(&zip_); }
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  std::string name() const { return file_.path().string(); }
  std::uint64_t packed_bytes() const { return file_.size(); }

  // Fills `out` as far as there are bytes; how many these were. An Error for a file that is damaged
  // or ends too early.
  std::size_t read(std::span<unsigned char> out) {
    std::size_t done = 0;
    while (done < out.size()) {
      if (zip_.avail_in == 0 && !pending_ && !next_piece()) break;
      if (!in_member_) {
        inflateReset(&zip_);
        in_member_ = true;
      }
      const auto room = out.subspan(done, std::min(kPiece, out.size() - done));
      zip_.next_out = room.data();
      zip_.avail_out = static_cast<uInt>(room.size());
      const int status = inflate(&zip_, Z_NO_FLUSH);
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
        fail("gzip", "{}: byte {}: {}. Is it a gzip file, and complete?", name(),
             offset_ - zip_.avail_in, zip_.msg != nullptr ? zip_.msg : zError(status));
      }
      done += room.size() - zip_.avail_out;
      in_member_ = status != Z_STREAM_END;
      pending_ = in_member_ && zip_.avail_out == 0;
    }
    return done;
  }

 private:
  static constexpr std::size_t kPiece = 1 << 16;

  // False behind the end of the file.
  bool next_piece() {
    if (offset_ == file_.size() && in_member_) {
      fail("gzip", "{}: ends at byte {} in the middle of the packed data. Fetch it again.", name(),
           offset_);
    }
    if (offset_ == file_.size()) return false;
    const auto input =
        std::span(piece_).first(std::min<std::uint64_t>(kPiece, file_.size() - offset_));
    file_.read(offset_, std::as_writable_bytes(input));
    offset_ += input.size();
    zip_.next_in = input.data();
    zip_.avail_in = static_cast<uInt>(input.size());
    return true;
  }

  InputFile file_;
  std::vector<unsigned char> piece_;
  z_stream zip_ = {};
  std::uint64_t offset_ = 0;
  bool in_member_ = true;  // an empty file is a truncated one
  bool pending_ = false;   // zlib may have more of what it was given
};

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

// Deflate makes at most 1032 bytes of one.
constexpr std::uint64_t kMostPacked = 1032;

}  // namespace

std::vector<unsigned char> read_gzip(const std::filesystem::path& path, std::size_t max_bytes) {
  GzipFile file(path);
  std::vector<unsigned char> out;
  std::vector<unsigned char> piece(1 << 16);
  while (const std::size_t got = file.read(piece)) {
    if (got > max_bytes - out.size()) {
      fail("gzip", "{}: unpacks to more than {} bytes. Is it the right file?", path.string(),
           max_bytes);
    }
    out.insert(out.end(), piece.data(), piece.data() + got);
  }
  return out;
}

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
  if (overflow || count > limits.bytes || row > static_cast<std::uint64_t>(limits.row)) {
    fail("idx",
         "{}: byte 4: sizes {}. {} bytes with {} in a row are the most; is it the right file?",
         file.name(), sizes, limits.bytes, limits.row);
  }
  if (count / kMostPacked > file.packed_bytes()) {
    fail("idx", "{}: byte 4: sizes {} cannot be in {} bytes of gzip. Fetch it again.", file.name(),
         sizes, file.packed_bytes());
  }
  array.values.resize(count);
  std::size_t got = file.read(array.values);
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
