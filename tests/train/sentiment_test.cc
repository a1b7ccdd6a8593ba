#include "train/sentiment.h"

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

class Fixture {
 public:
  Fixture() {
    std::filesystem::create_directory(folder_ / "sentiment");
    for (const char* name : {"film", "editorial", "product", "tweets"}) write(name, "");
    write("film", "1\t2.5\tA film.\r\n2\t-4\tTab\there\n");
    write("editorial", "12_3\t-0.25\tnews");
  }
  void write(const std::string& name, const std::string& lines) const {
    write_file_atomic(path(name), lines);
  }
  std::filesystem::path path(const std::string& name) const {
    return folder_.path() / "sentiment" / (name + ".txt");
  }
  std::vector<Sentence> read() const { return read_sentiment(folder_.path()); }
  std::string error(const std::string& lines) const {
    write("product", lines);
    return error_of([&] { read(); });
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("sentiment: sentences, their documents and ratings") {
  const Fixture f;
  const std::vector<Sentence> all = f.read();
  REQUIRE(all.size() == 3);
  CHECK(all[0].text == "A film.");
  CHECK(all[0].document == "film 1");
  CHECK(all[0].rating == 2.5);
  CHECK(all[1].text == "Tab\there");
  CHECK(all[1].rating == -4.0);
  CHECK(all[2].document == "editorial 12");
  CHECK(all[2].rating == -0.25);
}

TEST_CASE("errors of sentiment") {
  const Fixture f;
  const std::string file = "[sentiment] " + f.path("product").string();
  const std::string again = ". Run scripts/data sentiment again.";
  CHECK(f.error("1\t2\tfine\n1\t2 no\n") ==
        file + ": line 2: it has not three cells with tabs between them" + again);
  CHECK(f.error("\n") == file + ": line 1: it has not three cells with tabs between them" + again);
  for (const std::string bad : {"4.5", "-5", "nan", "", "1x", "1e400"}) {
    CHECK(f.error("1\t" + bad + "\ttext\n") ==
          file + ": line 1: the rating is '" + bad + "', and -4 to 4 was expected" + again);
  }
  CHECK(f.error("1\t2\t\xff\n") == file + ": line 1: it is not UTF-8" + again);
  for (const char* name : {"film", "editorial", "product"}) f.write(name, "");
  CHECK(error_of([&] { f.read(); }).find("no sentence") != std::string::npos);
  std::filesystem::remove(f.path("tweets"));
  CHECK(error_of([&] { f.read(); }) ==
        "[sentiment] '" + f.path("tweets").string() + "' is missing. Run scripts/data sentiment.");
}

}  // namespace moegrad
