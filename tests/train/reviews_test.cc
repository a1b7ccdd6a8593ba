#include "train/reviews.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

const std::string kHeader = "Review Text,Rating,Recommended IND,Department Name\r\n";

class Fixture {
 public:
  Fixture() { fs::create_directory(folder_ / "reviews"); }
  Task load(const std::string& text) const {
    write_file_atomic(file(), text);
    return load_reviews({.folder = folder_.path()});
  }
  std::string error(const std::string& text) const {
    return error_of([&] { load(text); });
  }
  fs::path file() const { return folder_ / "reviews" / "reviews.csv"; }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("reviews: words, targets, each text once") {
  const Fixture fixture;
  std::string text = kHeader;
  // Review i of ten says whether i is odd, and "It" with its digit; the texts are all different.
  for (int i = 0; i < 10; ++i) {
    text += fmt::format("\"{}, it's{}{}\",{},{},{}\r\n", i % 2 == 1 ? "ODD" : "even",
                        std::string(static_cast<std::size_t>(i), ' '), i, 1 + i % 5, i % 2,
                        i == 3 ? "" : (i < 5 ? "Tops" : "Dresses"));
  }
  text += ",5,1,Tops\r\n";                 // without a text
  text += "\"even, it's0\",1,1,Tops\r\n";  // a text that was there
  const Task task = fixture.load(text);
  // Most training texts have "it" and "s", then as many or fewer "even" and "odd".
  REQUIRE(task.fields == std::vector<Field>{{.name = "word", .values = 4, .several = true}});
  REQUIRE(task.train.x.shape() == Shape{8, 4});
  REQUIRE(task.test.x.shape() == Shape{2, 4});
  REQUIRE(task.targets.size() == 3);
  CHECK(task.targets[0].kind == Target::Kind::number);
  CHECK(task.targets[1].kind == Target::Kind::binary);
  CHECK(task.targets[2].names == std::vector<std::string>{"Dresses", "Tops"});
  std::map<double, int> odd_column;  // of the two last, by whether it goes with `recommended`
  std::map<double, int> departments;
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->x.size(0); ++i) {
      const auto x = [&](std::int64_t column) { return data->x.at(4 * i + column); };
      const auto label = [&](std::int64_t target) { return data->labels.at(3 * i + target); };
      CHECK(x(0) == 1.0);
      CHECK(x(1) == 1.0);
      CHECK(x(2) + x(3) == 1.0);
      ++odd_column[x(2) == label(1) ? 2.0 : 3.0];
      ++departments[label(2)];
      CHECK(label(0) >= 1.0);
      CHECK(label(0) <= 5.0);
    }
  }
  CHECK(odd_column.size() == 1);
  CHECK(departments == std::map<double, int>{{-1.0, 1}, {0.0, 5}, {1.0, 4}});
}

TEST_CASE("reviews: the words are those of most training texts, the first of as many") {
  const Fixture fixture;
  // 2,000 words in a text each, "common" in all: of some 1,600 words of training texts 999 have a column,
  // the first by the alphabet. The ratings follow the alphabet.
  std::string text = kHeader;
  for (int i = 0; i < 2000; ++i) {
    const std::string word = {static_cast<char>('a' + i / 676),
                              static_cast<char>('a' + i / 26 % 26),
                              static_cast<char>('a' + i % 26)};
    text += fmt::format("common {},{},1,Tops\n", word, 1 + i / 400);
  }
  const Task task = fixture.load(text);
  REQUIRE(task.train.x.shape() == Shape{1600, 1000});
  REQUIRE(task.test.x.shape() == Shape{400, 1000});
  double last_with = 0.0;
  double first_without = 6.0;
  int with = 0;
  for (std::int64_t i = 0; i < 1600; ++i) {
    const auto row =
        task.train.x.values<std::int32_t>().subspan(static_cast<std::size_t>(i) * 1000, 1000);
    CHECK(row[0] == 1);  // "common"
    const bool has = std::ranges::count(row, 1) == 2;
    const double rating = task.train.labels.at(3 * i);
    if (has) last_with = std::max(last_with, rating);
    if (!has) first_without = std::min(first_without, rating);
    with += has ? 1 : 0;
  }
  CHECK(with == 999);
  CHECK(last_with <= first_without);
  for (std::int64_t i = 0; i < 400; ++i) {
    const auto row =
        task.test.x.values<std::int32_t>().subspan(static_cast<std::size_t>(i) * 1000, 1000);
    CHECK(std::ranges::count(row, 1) == 1);  // what the test alone has is no word
  }
}

TEST_CASE("reviews: errors") {
  const Fixture fixture;
  const std::string start = "[reviews] " + fixture.file().string() + ": ";
  const std::string end = ". Run scripts/data reviews again.";
  CHECK(fixture.error("Review Text,Rating,Recommended IND\nfine,3,1\n") ==
        start + "there is no column 'Department Name'" + end);
  CHECK(fixture.error(kHeader + "fine,3,1,Tops\nbad,6,1,Tops\n") ==
        start + "line 3: Rating '6' is not from 1 to 5" + end);
  CHECK(fixture.error(kHeader + "fine,3,yes,Tops\n") ==
        start + "line 2: Recommended IND 'yes' is not from 0 to 1" + end);
  CHECK(fixture.error(kHeader + ",3,1,Tops\n") == start + "no review has a text" + end);
  CHECK(fixture.error(kHeader) == start + "no review has a text" + end);
  CHECK(fixture.error(kHeader + "1,3,1,A\n2,3,1,A\n3,3,1,A\n4,3,1,A\n5,3,1,A\n") ==
        start + "no training text has a word" + end);
  CHECK(fixture.error(kHeader + "fine,3,1,\nbad,1,0,\n") ==
        start + "0 departments, not 1 to 100" + end);
  CHECK(error_of([] { load_reviews({.folder = "nowhere"}); }) ==
        "[reviews] 'nowhere/reviews/reviews.csv' is missing. Run scripts/data reviews.");
}

TEST_CASE("reviews: the real ones") {
  const fs::path folder = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(folder / "reviews")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const Task task = load_task("reviews", {.folder = folder});
  // 22,641 have a text, of which 7 were there before.
  CHECK(task.train.x.shape() == Shape{18'108, 1000});
  CHECK(task.test.x.shape() == Shape{4'526, 1000});
  CHECK(task.targets[2].classes == 6);
  int unknown = 0;
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->labels.size(0); ++i)
      unknown += data->labels.at(3 * i + 2) < 0;
  }
  CHECK(unknown == 13);
}

}  // namespace
}  // namespace moegrad
