#include "train/data_folder.h"

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/dataset.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

TEST_CASE("the files of a data set have the sizes that they were made with") {
  const TemporaryFolder data;
  const auto set = data / "movielens";
  make_folder(set);
  const auto error = [&] { return error_of([&] { require_whole(set, "movielens"); }); };
  CHECK(error() == "no error");  // without SOURCE
  write_file_atomic(set / "ml-100k.item", "12345");
  write_file_atomic(set / "SOURCE", "films\nbytes: none\nbytes 5 ml-100k.item\nbytes 9 absent\n");
  CHECK(error() == "no error");
  write_file_atomic(set / "ml-100k.item", "1234");
  const std::string wanted = "[data] '" + (set / "ml-100k.item").string() +
                             "' has 4 bytes, and was made with 5. Run scripts/data movielens.";
  CHECK(error() == wanted);
  CHECK(error_of([&] { load_task("movielens", {.folder = data.path()}); }) == wanted);
}
