#include "train/gzip.h"

#include <algorithm>

#include <zlib.h>

#include "tensor/error.h"

namespace moegrad {
namespace {

constexpr std::size_t kGzipPiece = 1 << 16;

void end_inflate(z_stream* zip) {
  inflateEnd(zip);
  delete zip;
}

}  // namespace

GzipFile::GzipFile(const std::filesystem::path& path)
    : file_(path), piece_(kGzipPiece), zip_(new z_stream{}, end_inflate) {
  constexpr int kGzipOnly = 16 + MAX_WBITS;
  if (inflateInit2(zip_.get(), kGzipOnly) != Z_OK) {
    fail("gzip", "zlib cannot start. Is there memory left?");
  }
}

// Deflate makes at most 1032 bytes of one.
std::uint64_t GzipFile::most_bytes() const {
  std::uint64_t most = 0;
  return __builtin_mul_overflow(file_.size(), std::uint64_t{1032}, &most) ? ~std::uint64_t{0}
                                                                          : most;
}

std::size_t GzipFile::read(std::span<unsigned char> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    if (zip_->avail_in == 0 && !pending_ && !next_piece()) break;
    if (!in_member_) {
      inflateReset(zip_.get());
      in_member_ = true;
    }
    const auto room = out.subspan(done, std::min(kGzipPiece, out.size() - done));
    zip_->next_out = room.data();
    zip_->avail_out = static_cast<uInt>(room.size());
    const int status = inflate(zip_.get(), Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      fail("gzip", "{}: byte {}: {}. Is it a gzip file, and complete?", name(),
           offset_ - zip_->avail_in, zip_->msg != nullptr ? zip_->msg : zError(status));
    }
    done += room.size() - zip_->avail_out;
    in_member_ = status != Z_STREAM_END;
    pending_ = in_member_ && zip_->avail_out == 0;
  }
  return done;
}

// False behind the end of the file.
bool GzipFile::next_piece() {
  if (offset_ == file_.size() && in_member_) {
    fail("gzip", "{}: ends at byte {} in the middle of the packed data. Fetch it again.", name(),
         offset_);
  }
  if (offset_ == file_.size()) return false;
  const auto input =
      std::span(piece_).first(std::min<std::uint64_t>(kGzipPiece, file_.size() - offset_));
  file_.read(offset_, std::as_writable_bytes(input));
  offset_ += input.size();
  zip_->next_in = input.data();
  zip_->avail_in = static_cast<uInt>(input.size());
  return true;
}

}  // namespace moegrad
