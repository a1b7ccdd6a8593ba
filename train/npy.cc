#include "train/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tensor/files.h"
#include "tensor/half.h"
#include "tensor/parse.h"

namespace moegrad {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::uint64_t kMostHeader = 1 << 16;

struct Header {
  std::string descr;
  bool fortran = false;
  std::vector<std::int64_t> shape;
};

// The header is a literal of Python: of that as much as NumPy writes.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Header parse() {
    Header header;
    std::array<bool, 3> seen = {};
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      expect(':');
      constexpr std::array<std::string_view, 3> kKeys = {"descr", "fortran_order", "shape"};
      const auto* const known = std::find(kKeys.begin(), kKeys.end(), key);
      if (known == kKeys.end()) damaged();
      seen[static_cast<std::size_t>(known - kKeys.begin())] = true;
      if (key == "descr") {
        header.descr = descr();
      } else if (key == "shape") {
        header.shape = shape();
      } else {
        header.fortran = truth();
      }
      if (!take(',') && !next_is('}')) damaged();
    }
    if (!seen[0] || !seen[1] || !seen[2]) damaged();
    return header;
  }

 private:
  [[noreturn]] void damaged() const {
    fail("npy", "{}: its header is '{}', not that of NumPy. Is the file damaged?", file_, text_);
  }
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool next_is(char c) {
    skip_blanks();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool take(char c) {
    const bool there = next_is(c);
    at_ += there ? 1 : 0;
    return there;
  }
  void expect(char c) {
    if (!take(c)) damaged();
  }
  std::string quoted() {
    const char quote = next_is('"') ? '"' : '\'';
    expect(quote);
    const std::size_t end = text_.find(quote, at_);
    if (end == text_.npos) damaged();
    const std::string_view inside = text_.substr(at_, end - at_);
    at_ = end + 1;
    return std::string(inside);
  }
  std::string descr() {
    if (next_is('[')) {
      fail("npy", "{}: an array of records. Give one array of numbers with two axes.", file_);
    }
    return quoted();
  }
  bool truth() {
    skip_blanks();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    damaged();
  }
  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!take(')')) {
      skip_blanks();
      const std::size_t end = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
      const auto size = parse_number<std::int64_t>(text_.substr(at_, end - at_), 0);
      if (!size) damaged();
      sizes.push_back(*size);
      at_ = end;
      if (!take(',') && !next_is(')')) damaged();
    }
    return sizes;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
};

// The elements one after the other, as f64, a piece at a time.
template <class From, class Convert, class Put>
void each(const InputFile& input, std::uint64_t offset, std::int64_t count, Convert convert,
          Put put) {
  std::vector<From> piece(static_cast<std::size_t>(std::min<std::int64_t>(count, 1 << 16)));
  for (std::int64_t first = 0; first < count; first += static_cast<std::int64_t>(piece.size())) {
    const std::size_t n = std::min(piece.size(), static_cast<std::size_t>(count - first));
    const std::span<From> part = std::span(piece).first(n);
    input.read(offset + static_cast<std::uint64_t>(first) * sizeof(From),
               std::as_writable_bytes(part));
    for (std::size_t i = 0; i < n; ++i) put(first + static_cast<std::int64_t>(i), convert(part[i]));
  }
}

std::uint64_t element_size(std::string_view descr) {
  constexpr std::array<std::string_view, 12> kTypes = {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4",
                                                       "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"};
  const bool known = std::find(kTypes.begin(), kTypes.end(), descr) != kTypes.end();
  return known ? static_cast<std::uint64_t>(descr[2] - '0') : 0;
}

// Beyond 2^53 several integers are one f64: labels would merge.
template <class From>
double exactly(From v, const std::string& file) {
  if constexpr (std::is_integral_v<From> && sizeof(From) == 8) {
    constexpr From kMost = From{1} << 53;
    bool exact = v <= kMost;
    if constexpr (std::is_signed_v<From>) exact = exact && v >= -kMost;
    if (!exact) {
      fail("npy",
           "{}: an element is {}, and integers beyond 2^53 are not told apart. Save smaller ones.",
           file, v);
    }
  }
  return static_cast<double>(v);
}

template <class Put>
void read_elements(const InputFile& input, const std::string& file, std::uint64_t offset,
                   std::string_view descr, std::int64_t count, Put put) {
  const auto as = [&]<class From>(From) {
    each<From>(
        input, offset, count, [&](From v) { return exactly(v, file); }, put);
  };
  const char kind = descr[1];
  const char size = descr[2];
  if (kind == 'f' && size == '2') {
    each<std::uint16_t>(
        input, offset, count,
        [](std::uint16_t half) { return static_cast<double>(from_f16(half)); }, put);
  } else if (kind == 'f') {
    size == '4' ? as(0.0F) : as(0.0);
  } else if (kind == 'i') {
    size == '1'   ? as(std::int8_t{})
    : size == '2' ? as(std::int16_t{})
    : size == '4' ? as(std::int32_t{})
                  : as(std::int64_t{});
  } else {
    size == '1'   ? as(std::uint8_t{})
    : size == '2' ? as(std::uint16_t{})
    : size == '4' ? as(std::uint32_t{})
                  : as(std::uint64_t{});
  }
}

void require_numbers(const std::string& file, const std::string& descr) {
  if (element_size(descr) != 0) return;
  if (descr.find('O') != descr.npos) {
    fail("npy",
         "{}: an array of Python objects, which only Python can unpack. Save numbers: "
         "numpy.save(file, array.astype('<f8')).",
         file);
  }
  fail("npy", "{}: elements of the type '{}'. Save numbers: numpy.save(file, array.astype('<f8')).",
       file, descr);
}

}  // namespace

Tensor read_npy(const std::filesystem::path& path) {
  const std::string file = path.string();
  const InputFile input(path);
  std::array<char, 12> start = {};
  const std::size_t there = std::min<std::uint64_t>(input.size(), start.size());
  input.read(0, std::as_writable_bytes(std::span(start).first(there)));
  if (there < 10 || !std::string_view(start.data(), there).starts_with(kMagic)) {
    fail("npy", "{}: it does not begin as a .npy file does. Is it the right file?", file);
  }
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint64_t>(static_cast<unsigned char>(start[i]));
  };
  const std::uint64_t version = byte(6);
  if (version < 1 || version > 3) {
    fail("npy", "{}: format version {}. Versions 1 to 3 are read; save it anew.", file, version);
  }
  const std::uint64_t begin = version == 1 ? 10 : 12;
  std::uint64_t length = byte(8) | byte(9) << 8;
  if (version > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kMostHeader || begin + length > input.size()) {
    fail("npy", "{}: a header of {} bytes in a file of {}. Was it cut short?", file, length,
         input.size());
  }
  std::string text(length, '\0');
  input.read(begin, std::as_writable_bytes(std::span(text)));
  const Header header = HeaderParser(text, file).parse();
  require_numbers(file, header.descr);
  if (header.shape.size() != 2) {
    fail("npy", "{}: an array of {} axes. Give two: rows and columns.", file, header.shape.size());
  }
  const std::int64_t rows = header.shape[0];
  const std::int64_t columns = header.shape[1];
  if (rows == 0 || columns == 0) {
    fail("npy", "{}: {} rows of {} columns. Is it the right file?", file, rows, columns);
  }
  std::int64_t count = 0;
  if (__builtin_mul_overflow(rows, columns, &count) || count > kMostNumbers) {
    fail("npy", "{}: {} rows of {} columns. {} elements are the most; is the file damaged?", file,
         rows, columns, kMostNumbers);
  }
  const std::uint64_t bytes = static_cast<std::uint64_t>(count) * element_size(header.descr);
  if (const std::uint64_t data = input.size() - begin - length; data != bytes) {
    fail("npy", "{}: {} rows of {} columns need {} bytes, and it has {}. {}", file, rows, columns,
         bytes, data, data < bytes ? "Was it cut short?" : "Is the file damaged?");
  }
  Tensor out = Tensor::empty({rows, columns}, DType::f64, Device::cpu);
  double* const to = out.write<double>();
  read_elements(input, file, begin + length, header.descr, count,
                [&](std::int64_t i, double value) {
                  to[header.fortran ? i % rows * columns + i / rows : i] = value;
                });
  return out;
}

}  // namespace moegrad
