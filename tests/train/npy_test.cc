#include "train/npy.h"

#include <cstring>
#include <fstream>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string npy(const std::string& header, const std::string& data, char version = 1) {
  std::string file = "\x93NUMPY";
  file += {version, '\0'};
  const auto length = static_cast<std::uint32_t>(header.size());
  file.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  return file + header + data;
}
std::string header(const std::string& descr, const std::string& shape,
                   const std::string& fortran = "False") {
  return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}   \n", descr, fortran,
                     shape);
}

Tensor read(const std::string& bytes) {
  const TemporaryFolder folder;
  std::ofstream(folder / "f.npy", std::ios::binary) << bytes;
  return read_npy(folder / "f.npy");
}
std::string error(const std::string& bytes) {
  const std::string text = error_of([&] { read(bytes); });
  const std::size_t end = text.find("f.npy: ");
  return end == std::string::npos ? text : text.substr(end + 7);
}

TEST_CASE("npy: every type of number, both orders, all versions") {
  const std::vector<double> want = {1, 2, 3, 4, 5, 6};
  const auto check = [&](const std::string& descr, const std::string& data) {
    CAPTURE(descr);
    const Tensor t = read(npy(header(descr, "(2, 3)"), data));
    CHECK(t.shape() == Shape{2, 3});
    CHECK(t.to_vector() == want);
  };
  check("|i1", bytes_of<std::int8_t>({1, 2, 3, 4, 5, 6}));
  check("|u1", bytes_of<std::uint8_t>({1, 2, 3, 4, 5, 6}));
  check("<i2", bytes_of<std::int16_t>({1, 2, 3, 4, 5, 6}));
  check("<u2", bytes_of<std::uint16_t>({1, 2, 3, 4, 5, 6}));
  check("<i4", bytes_of<std::int32_t>({1, 2, 3, 4, 5, 6}));
  check("<u4", bytes_of<std::uint32_t>({1, 2, 3, 4, 5, 6}));
  check("<i8", bytes_of<std::int64_t>({1, 2, 3, 4, 5, 6}));
  check("<u8", bytes_of<std::uint64_t>({1, 2, 3, 4, 5, 6}));
  check("<f2", bytes_of<std::uint16_t>({0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600}));
  check("<f4", bytes_of<float>({1, 2, 3, 4, 5, 6}));
  check("<f8", bytes_of<double>(want));
  CHECK(read(npy(header("|b1", "(1, 2)"), std::string("\1\0", 2))).to_vector() ==
        std::vector<double>{1, 0});
  CHECK(read(npy(header("|i1", "(1, 1)"), "\xff")).item() == -1.0);
  CHECK(read(npy(header("<f8", "(2, 3)", "True"), bytes_of<double>({1, 4, 2, 5, 3, 6})))
            .to_vector() == want);
  for (const char version : {2, 3}) {
    CHECK(read(npy(header("<f8", "(3, 2)"), bytes_of(want), version)).shape() == Shape{3, 2});
  }
}

TEST_CASE("npy: more elements than are read at once") {
  std::vector<std::int32_t> values(200'000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
  const Tensor t = read(npy(header("<i4", "(100000, 2)"), bytes_of(values)));
  CHECK(t.at(65'536) == 65'536.0);
  CHECK(t.at(199'999) == 199'999.0);
}

TEST_CASE("npy: what is wrong") {
  const std::string one = bytes_of<double>({1});
  CHECK(error("") == "it does not begin as a .npy file does. Is it the right file?");
  CHECK(error("PK\3\4and more") == "it does not begin as a .npy file does. Is it the right file?");
  CHECK(error(npy(header("<f8", "(1, 1)"), one, 4)) ==
        "format version 4. Versions 1 to 3 are read; save it anew.");
  CHECK(error(npy(header("|O", "(1, 1)"), one)) ==
        "an array of Python objects, which only Python can unpack. Save numbers: "
        "numpy.save(file, array.astype('<f8')).");
  for (const char* descr : {">f8", "<U5", "<c16", "<f16", "", "<f8 ", "|S1", "<M8[s]"}) {
    CHECK(error(npy(header(descr, "(1, 1)"), one)) ==
          fmt::format("elements of the type '{}'. Save numbers: numpy.save(file, "
                      "array.astype('<f8')).",
                      descr));
  }
  CHECK(error(npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }", one)) ==
        "an array of records. Give one array of numbers with two axes.");
  for (const auto& [shape, axes] : {std::pair("()", 0), {"(1,)", 1}, {"(1, 1, 1)", 3}}) {
    CHECK(error(npy(header("<f8", shape), one)) ==
          fmt::format("an array of {} axes. Give two: rows and columns.", axes));
  }
  const std::int64_t most = std::int64_t{1} << 53;
  CHECK(read(npy(header("<i8", "(1, 2)"), bytes_of<std::int64_t>({most, -most}))).at(1) == -0x1p53);
  for (const std::int64_t beyond : {most + 1, -most - 1}) {
    CHECK(error(npy(header("<i8", "(1, 1)"), bytes_of<std::int64_t>({beyond}))) ==
          fmt::format("an element is {}, and integers beyond 2^53 are not told apart. Save smaller "
                      "ones.",
                      beyond));
  }
  CHECK(error(npy(header("<u8", "(1, 1)"), bytes_of<std::uint64_t>({~std::uint64_t{0}})))
            .starts_with("an element is 18446744073709551615, and"));
  CHECK(error(npy(header("<f8", "(0, 3)"), "")) == "0 rows of 3 columns. Is it the right file?");
  CHECK(error(npy(header("<f8", "(2, 1)"), one)) ==
        "2 rows of 1 columns need 16 bytes, and it has 8. Was it cut short?");
  CHECK(error(npy(header("<f8", "(1, 1)"), one + "x")) ==
        "1 rows of 1 columns need 8 bytes, and it has 9. Is the file damaged?");
  CHECK(error(npy(header("<f8", "(4294967296, 4294967296)"), one)) ==
        "4294967296 rows of 4294967296 columns. 268435456 elements are the most; is the file "
        "damaged?");
  CHECK(error(npy(header("<f8", "(100000000, 2)"), one)) ==
        "100000000 rows of 2 columns need 1600000000 bytes, and it has 8. Was it cut short?");
  CHECK(error(npy(header("<f8", "(1, 1)"), one).substr(0, 20)).starts_with("a header of "));
  for (const std::string& text :
       {std::string("{}"), std::string("nonsense"), header("<f8", "(1, -1)"),
        header("<f8", "(1, 1"), header("<f8", "(99999999999999999999, 1)"),
        header("<f8", "(1, 1)", "Maybe"), std::string("{'descr': '<f8', 'shape': (1, 1)}"),
        std::string("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), 'more': True}")}) {
    CAPTURE(text);
    CHECK(error(npy(text, one)).find("not that of NumPy") != std::string::npos);
  }
}

}  // namespace
}  // namespace moegrad
