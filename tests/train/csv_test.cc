#include "train/csv.h"

#include <fstream>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;
using Cells = std::vector<std::string_view>;

CsvFile read(std::string_view bytes, const std::string& name = "f.csv",
             const CsvLimits& limits = {}) {
  const TemporaryFolder folder;
  std::ofstream(folder / name, std::ios::binary) << bytes;
  return read_csv(folder / name, limits);
}

// Without "[csv] PATH: ".
std::string error(std::string_view bytes, const std::string& name = "f.csv",
                  const CsvLimits& limits = {}) {
  const std::string text = error_of([&] { read(bytes, name, limits); });
  const std::size_t end = text.find("f.csv: ");
  return end == std::string::npos ? text : text.substr(end + 7);
}

TEST_CASE("csv: cells, quotes, blanks, and the lines of rows") {
  const CsvFile csv = read("a,b\n 1 ,\"x, y\"\n\"one\ntwo\",\"a \"\"b\"\"\"\n\n , \" \" \nlast,");
  CHECK(csv.columns == 2);
  CHECK(csv.cells == Cells{"a", "b", "1", "x, y", "one\ntwo", "a \"b\"", "", " ", "last", ""});
  CHECK(csv.lines == std::vector<std::int64_t>{1, 2, 3, 6, 7});
  CHECK(csv.cell(2, 1) == "a \"b\"");
}

TEST_CASE("csv: line ends, a byte order mark, tabs") {
  CHECK(read("\xef\xbb\xbf"
             "a,b\r\n1,2\r\n")
            .cells == Cells{"a", "b", "1", "2"});
  const CsvFile old = read("a,b\r1,2\r\r3,4");
  CHECK(old.cells == Cells{"a", "b", "1", "2", "3", "4"});
  CHECK(old.lines == std::vector<std::int64_t>{1, 2, 4});
  CHECK(read("a,b\tc,d\n", "f.tsv").cells == Cells{"a,b", "c,d"});
  CHECK(read("a\t b\n1\t\n", "f.txt").cells == Cells{"a", "b", "1", ""});
  CHECK(read("a,b\tc\n", "f.txt").cells == Cells{"a", "b\tc"});
  CHECK(read("\"\"\n1\n").cells == Cells{"", "1"});  // a quoted empty cell is a row
  CHECK(read("5\" pipe,1\n").cells == Cells{"5\" pipe", "1"});
}

TEST_CASE("csv: what is wrong, with its line") {
  CHECK(error("") == "it has no rows. Is it the right file?");
  CHECK(error("\n \n") == "it has no rows. Is it the right file?");
  CHECK(error("a,b\n1,2\n\n\"x\n\",3,4\n") ==
        "line 4 has 3 cells, and line 1 has 2. Give each line as many.");
  CHECK(error("a,b\n1\n") == "line 2 has 1 cells, and line 1 has 2. Give each line as many.");
  CHECK(error("a,b\n1,2\n3,\"x\n4,5\n") ==
        "line 3: the quote that opens there is never closed. Close it.");
  CHECK(error("a,b\n\"x\"y,2\n") ==
        "line 2: text behind a closing quote. Write a quote in a text as \"\".");
  CHECK(error("a,b\n1,\xff\n") == "line 2: '\\xff' is not UTF-8. Save the file as UTF-8.");
  CHECK(error(std::string_view("\xff\xfe"
                               "1\0,\0",
                               6)) == "it begins as UTF-16 does. Save the file as UTF-8.");
  CHECK(error(std::string_view("\xfe\xff\0"
                               "1\0,",
                               6)) == "it begins as UTF-16 does. Save the file as UTF-8.");
  CHECK(error(std::string_view("a,b\n1,\0\n", 9)) ==
        "line 2: a zero byte. Save the file as text in UTF-8.");
}

TEST_CASE("csv: limits") {
  CHECK(error("a,b\n1,2\n", "f.csv", {.bytes = 7}) == "8 bytes. 7 are the most; give fewer rows.");
  CHECK(error("a,b\n1,2\n", "f.csv", {.cells = 3}) ==
        "line 2: more than 3 cells. Give fewer rows.");
  CHECK(error("a,b\n1,2\n", "f.csv", {.columns = 1}) ==
        "line 1: more than 1 cells in a row. Is it the right file?");
}

TEST_CASE("csv: damaged files give an error of ours, or another table") {
  const TemporaryFolder folder;
  const std::string seed = "a,b,c\r\n1,\"x \"\"y\"\"\",3\r\n\"4\n5\",,6\n";
  for (std::uint64_t i = 0; i < 2000; ++i) {
    std::ofstream(folder / "f.csv", std::ios::binary) << test::mutated(seed, 1, i);
    try {
      const CsvFile csv = read_csv(folder / "f.csv");
      CHECK(csv.cells.size() == csv.rows() * csv.columns);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace moegrad
