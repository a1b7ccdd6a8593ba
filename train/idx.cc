#include "train/idx.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include <fmt/format.h>
#include <zlib.h>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

class Inflater {
 public:
  Inflater() {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) {
      fail("gzip", "zlib cannot start. Is there memory left?");
    }
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  z_stream* operator->() { return &stream_; }
  int step() { return inflate(&stream_, Z_NO_FLUSH); }
  void next_member() { inflateReset(&stream_); }

 private:
  z_stream stream_ = {};
};

std::uint32_t big_endian(std::span<const unsigned char> bytes, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | bytes[offset + i];
  return value;
}

}  // namespace

std::vector<unsigned char> read_gzip(const std::filesystem::path& path, std::size_t max_bytes) {
  constexpr std::size_t kPiece = 1 << 16;
  const InputFile file(path);
  std::vector<unsigned char> piece(kPiece);
  std::vector<unsigned char> out;
  std::vector<unsigned char> unpacked(kPiece);
  Inflater zip;
  bool in_member = true;  // an empty file is a truncated one
  for (std::uint64_t offset = 0; offset < file.size();) {
    const auto input =
        std::span(piece).first(std::min<std::uint64_t>(kPiece, file.size() - offset));
    file.read(offset, std::as_writable_bytes(input));
    offset += input.size();
    zip->next_in = input.data();
    zip->avail_in = static_cast<uInt>(input.size());
    do {
      if (!in_member) {
        zip.next_member();
        in_member = true;
      }
      zip->next_out = unpacked.data();
      zip->avail_out = static_cast<uInt>(unpacked.size());
      const int status = zip.step();
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
        fail("gzip", "{}: byte {}: {}. Is it a gzip file, and complete?", path.string(),
             offset - zip->avail_in, zip->msg != nullptr ? zip->msg : zError(status));
      }
      const std::size_t made = unpacked.size() - zip->avail_out;
      if (made > max_bytes - out.size()) {
        fail("gzip", "{}: unpacks to more than {} bytes. Is it the right file?", path.string(),
             max_bytes);
      }
      out.insert(out.end(), unpacked.data(), unpacked.data() + made);
      in_member = status != Z_STREAM_END;
    } while (zip->avail_in > 0 || (in_member && zip->avail_out == 0));
  }
  if (in_member) {
    fail("gzip", "{}: ends at byte {} in the middle of the packed data. Fetch it again.",
         path.string(), file.size());
  }
  return out;
}

IdxArray parse_idx(std::string_view file, std::vector<unsigned char> bytes, int rank) {
  const std::size_t header = 4 + 4 * static_cast<std::size_t>(rank);
  if (bytes.size() < header) {
    fail("idx", "{}: {} bytes; its header has {}. Fetch it again.", file, bytes.size(), header);
  }
  const std::uint32_t expected = 0x0800U + static_cast<std::uint32_t>(rank);
  if (const std::uint32_t magic = big_endian(bytes, 0); magic != expected) {
    fail("idx",
         "{}: byte 0: magic number {:#010x}, not {:#010x} (unsigned bytes, {} axes). Is it "
         "the right file?",
         file, magic, expected, rank);
  }
  IdxArray array;
  std::uint64_t count = 1;
  bool overflow = false;
  for (std::size_t offset = 4; offset < header; offset += 4) {
    const std::uint32_t size = big_endian(bytes, offset);
    array.sizes.push_back(size);
    overflow = __builtin_mul_overflow(count, std::uint64_t{size}, &count) || overflow;
  }
  if (overflow || count != bytes.size() - header) {
    fail("idx", "{}: byte 4: sizes {} for {} bytes of elements. Fetch it again.", file,
         fmt::join(array.sizes, " x "), bytes.size() - header);
  }
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(header));
  array.values = std::move(bytes);
  return array;
}

IdxArray read_idx(const std::filesystem::path& path, int rank, std::size_t max_bytes) {
  return parse_idx(path.string(), read_gzip(path, max_bytes), rank);
}

}  // namespace moegrad
