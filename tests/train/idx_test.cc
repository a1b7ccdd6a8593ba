#include "train/idx.h"

#include <fstream>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <zlib.h>

#include "tests/temporary_files.h"
#include "train/gzip.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string gzip(std::string_view bytes) {
  z_stream stream = {};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(deflateBound(&stream, bytes.size()) + 64, '\0');
  std::string input(bytes);
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::vector<unsigned char> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// Bytes that pack badly, so that the packed file is longer than one piece.
std::string noise(std::size_t n) {
  const Rng rng{3, 0, 0};
  std::string text(n, '\0');
  for (std::size_t i = 0; i < n; ++i) text[i] = static_cast<char>(rng.bits(i) & 0xff);
  return text;
}

// All of a file, `piece` bytes at a time.
std::vector<unsigned char> unpacked(const fs::path& path, std::size_t piece = 10'000) {
  GzipFile file(path);
  std::vector<unsigned char> all;
  std::vector<unsigned char> some(piece);
  while (const std::size_t got = file.read(some)) {
    all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(got));
  }
  CHECK(all.size() <= file.most_bytes());
  return all;
}

TEST_CASE("gzip: what was packed is unpacked, also in several members") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.gz";
  for (const std::string& text : {std::string(), std::string("x"), noise(65'536), noise(200'001),
                                  std::string(1'000'000, 'a')}) {
    write(path, gzip(text));
    CHECK(unpacked(path) == bytes_of(text));
    write(path, gzip(text) + gzip("") + gzip("end"));
    for (const std::size_t piece : {std::size_t{7}, std::size_t{65'536}, std::size_t{3'000'000}}) {
      CHECK(unpacked(path, piece) == bytes_of(text + "end"));
    }
  }
}

TEST_CASE("gzip: cut and damaged files") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.gz";
  const auto error = [&](std::string_view bytes) {
    write(path, bytes);
    const std::string text = error_of([&] { unpacked(path); });
    const std::string prefix = fmt::format("[gzip] {}: ", path.string());
    return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
  };
  const std::string packed = gzip("some text, some text");
  CHECK(error("") == "ends at byte 0 in the middle of the packed data. Fetch it again.");
  for (std::size_t n = 1; n < packed.size(); ++n) {
    CHECK(error(packed.substr(0, n)) ==
          fmt::format("ends at byte {} in the middle of the packed data. Fetch it again.", n));
  }
  CHECK(error("plain text") == "byte 2: incorrect header check. Is it a gzip file, and complete?");
  std::string damaged = packed;
  damaged[damaged.size() - 8] ^= 1;
  CHECK(error(damaged) == fmt::format("byte {}: incorrect data check. Is it a gzip file, and "
                                      "complete?",
                                      packed.size() - 4));
  CHECK(error(packed + "trailing") == fmt::format("byte {}: incorrect header check. Is it a gzip "
                                                  "file, and complete?",
                                                  packed.size() + 2));
  const std::string missing = (folder / "missing").string();
  CHECK(error_of([&] { GzipFile{missing}; }) ==
        fmt::format("[read] cannot read '{}': No such file or directory. Check the path and its "
                    "permissions.",
                    missing));
}

// The array of a gzip file with these bytes, or the error without the path.
struct Idx {
  TemporaryFolder folder;
  fs::path path = folder / "a.gz";

  IdxArray operator()(std::string_view bytes, int rank, const IdxLimits& limits = {}) const {
    write(path, gzip(bytes));
    return read_idx(path, rank, limits);
  }
  std::string error(std::string_view bytes, int rank, const IdxLimits& limits = {}) const {
    std::string text = error_of([&] { (*this)(bytes, rank, limits); });
    const std::size_t at = text.find(path.string());
    return at == std::string::npos ? text : text.replace(at, path.string().size(), "a.gz");
  }
};

TEST_CASE("idx: sizes and values") {
  const Idx idx;
  const std::string file("\0\0\x08\3\0\0\0\2\0\0\0\1\0\0\0\3abcdef", 22);
  const IdxArray array = idx(file, 3);
  CHECK(array.sizes == std::vector<std::int64_t>{2, 1, 3});
  CHECK(array.values == bytes_of("abcdef"));
  const IdxArray none = idx(std::string("\0\0\x08\1\0\0\0\0", 8), 1);
  CHECK(none.sizes == std::vector<std::int64_t>{0});
  CHECK(none.values.empty());
  // In several members, and longer than a piece.
  const std::string values = noise(200'000);
  const std::string header("\0\0\x08\1\0\x03\x0d\x40", 8);
  write(idx.path, gzip(header.substr(0, 3)) + gzip("") + gzip(header.substr(3) + values));
  CHECK(read_idx(idx.path, 1).values == bytes_of(values));
}

TEST_CASE("idx: damaged files") {
  const Idx idx;
  const auto error = [&](std::string_view bytes, int rank) { return idx.error(bytes, rank); };
  CHECK(error("", 1) == "[idx] a.gz: 0 bytes; its header has 8. Fetch it again.");
  CHECK(error(std::string_view("\0\0\x08\3\0\0\0\2", 8), 3) ==
        "[idx] a.gz: 8 bytes; its header has 16. Fetch it again.");
  CHECK(error(std::string_view("\0\0\x08\1\0\0\0\2ab", 10), 2) ==
        "[idx] a.gz: 10 bytes; its header has 12. Fetch it again.");
  CHECK(error(std::string_view("\0\0\x0d\1\0\0\0\2ab", 10), 1) ==
        "[idx] a.gz: byte 0: magic number 0x00000d01, not 0x00000801 (unsigned bytes, 1 axes). Is "
        "it the right file?");
  CHECK(error(std::string_view("\0\0\x08\1\0\0\0\3ab", 10), 1) ==
        "[idx] a.gz: byte 4: sizes 3 for 2 bytes of elements. Fetch it again.");
  CHECK(error(std::string_view("\0\0\x08\2\0\0\0\1\0\0\0\1ab", 14), 2) ==
        "[idx] a.gz: byte 4: sizes 1 x 1 for more than 1 bytes of elements. Fetch it again.");
  // The checksum behind the last element is read, too.
  std::string packed = gzip(std::string_view("\0\0\x08\1\0\0\0\2ab", 10));
  packed[packed.size() - 5] = static_cast<char>(packed[packed.size() - 5] ^ 1);
  write(idx.path, packed);
  CHECK(error_of([&] { read_idx(idx.path, 1); }).find("incorrect data check") != std::string::npos);
}

TEST_CASE("idx: sizes are held against the limits and the file before memory is taken") {
  const Idx idx;
  const std::string most =
      ". 1000000 rows of 65536 bytes, 100000000 in all, are the most; is it the right file?";
  // 2^31 * 2^31 * 4 = 2^64, which would wrap to 0.
  CHECK(idx.error(std::string_view("\0\0\x08\3\x80\0\0\0\x80\0\0\0\0\0\0\4", 16), 3) ==
        "[idx] a.gz: byte 4: sizes 2147483648 x 2147483648 x 4" + most);
  // One image of 10,000 x 10,000: the model would get as many inputs.
  CHECK(idx.error(std::string_view("\0\0\x08\3\0\0\0\1\0\0\x27\x10\0\0\x27\x10", 16), 3) ==
        "[idx] a.gz: byte 4: sizes 1 x 10000 x 10000" + most);
  // None of them has elements, and their rows are as long as can be.
  CHECK(idx.error(std::string_view("\0\0\x08\3\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16), 3) ==
        "[idx] a.gz: byte 4: sizes 0 x 4294967295 x 4294967295" + most);
  CHECK(idx.error(std::string("\0\0\x08\1\x05\xf5\xe0\xff", 8), 1) ==
        "[idx] a.gz: byte 4: sizes 99999999" + most);
  // A million labels cannot come out of some forty bytes.
  const std::string claim("\0\0\x08\1\0\x0f\x42\x40", 8);
  CHECK(idx.error(claim, 1).starts_with(
      "[idx] a.gz: byte 4: sizes 1000000, where the file can unpack to "));
  const IdxLimits small{.bytes = 4, .rows = 4, .row = 2};
  CHECK(idx.error(std::string_view("\0\0\x08\1\0\0\0\4abcd", 12), 1, small) == "no error");
  CHECK(idx.error(std::string_view("\0\0\x08\1\0\0\0\5abcde", 13), 1, small) ==
        "[idx] a.gz: byte 4: sizes 5. 4 rows of 2 bytes, 4 in all, are the most; is it the right "
        "file?");
  CHECK(
      idx.error(std::string_view("\0\0\x08\2\0\0\0\1\0\0\0\3abc", 15), 2, small) ==
      "[idx] a.gz: byte 4: sizes 1 x 3. 4 rows of 2 bytes, 4 in all, are the most; is it the right "
      "file?");
}

TEST_CASE("idx: no more is unpacked than the header says") {
  const Idx idx;
  // 60 MB of zeros behind the two elements: a bomb of 60 kB.
  const std::string bomb = std::string("\0\0\x08\1\0\0\0\2ab", 10) + std::string(60'000'000, '\0');
  const std::string packed = gzip(bomb);
  CHECK(packed.size() < 100'000);
  write(idx.path, packed);
  CHECK(error_of([&] { read_idx(idx.path, 1); }) ==
        "[idx] " + idx.path.string() +
            ": byte 4: sizes 2 for more than 2 bytes of elements. Fetch it again.");
}

TEST_CASE("idx: damaged files give an error of ours, or another valid file") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.gz";
  const std::string valid = std::string("\0\0\x08\2\0\0\0\x40\0\0\0\x40", 12) + noise(4096);
  const std::string packed = gzip(valid);
  int errors = 0;
  constexpr int kFiles = 4000;
  for (int i = 0; i < kFiles; ++i) {
    CAPTURE(i);
    const auto seed = static_cast<std::uint64_t>(i);
    // The packed file, or a well packed one of damaged content.
    write(path, i % 2 == 0 ? test::mutated(packed, 1, seed)
                           : gzip(test::mutated(valid.substr(0, 40), 2, seed) + valid.substr(40)));
    const std::string error = error_of([&] { read_idx(path, 2); });
    errors += error != "no error";
    const bool ours = error.starts_with("[gzip] ") || error.starts_with("[idx] ");
    CHECK((error == "no error" || ours));
  }
  CHECK(errors > kFiles / 2);
}

}  // namespace
}  // namespace moegrad
