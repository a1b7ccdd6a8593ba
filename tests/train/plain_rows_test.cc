#include "train/plain_rows.h"

#include <string>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

TEST_CASE("plain rows: cells as they are, with either end of line") {
  const TemporaryFolder folder;
  const auto path = folder / "a.csv";
  write_file_atomic(path, "x,y\r\n1,two words\r\n,\n3,4");
  const PlainRows read = read_plain_rows(path, "set", ',', "x,y");
  CHECK(read.rows ==
        std::vector<std::vector<std::string>>{{"1", "two words"}, {"", ""}, {"3", "4"}});
  CHECK(error_of([&] { read.damaged(1, "too odd"); }) ==
        "[set] " + path.string() + ": line 3: too odd. Run scripts/data set again.");
}

TEST_CASE("plain rows: errors") {
  const TemporaryFolder folder;
  const auto path = folder / "a.tsv";
  const auto error = [&](const std::string& text) {
    write_file_atomic(path, text);
    return error_of([&] { read_plain_rows(path, "set", '\t', "x\ty"); });
  };
  const std::string start = "[set] " + path.string() + ": ";
  const std::string end = ". Run scripts/data set again.";
  CHECK(error_of([&] { read_plain_rows(path, "set", '\t', "x\ty"); }) ==
        "[set] '" + path.string() + "' is missing. Run scripts/data set.");
  CHECK(error("x,y\n1\t2\n") == start + "its header is not 'x\\x09y'" + end);
  CHECK(error("x\ty\n1\t2\n3\n") == start + "line 3: 1 cells, not 2" + end);
  CHECK(error("x\ty\n1\t2\t3\n") == start + "line 2: 3 cells, not 2" + end);
  CHECK(error("x\ty\n\n") == start + "line 2: 1 cells, not 2" + end);
  CHECK(error("x\ty\n") == start + "it has no row" + end);
  CHECK(error("") == start + "it has no row" + end);
}

}  // namespace
}  // namespace moegrad
