#include "train/movielens.h"

#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

// Three users and eight films; every user rates four of them, film 8 is nobody's.
class Fixture {
 public:
  Fixture() {
    fs::create_directory(folder_ / "movielens");
    write("user",
          "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
          "7\t17\tF\twriter\t1\n5\t18\tM\tartist\t2\n9\t73\tM\twriter\t3\n");
    std::string films =
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tA film\t1922\tWar\n2\tB\tunkonwn\tComedy War\n";
    for (int film = 3; film <= 8; ++film) films += std::to_string(film) + "\tC\t1998\tDrama\n";
    write("item", films);
    write("inter", ratings());
  }
  static std::string ratings() {
    std::string text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
    for (const char* user : {"7", "5", "9"}) {
      for (int film = 1; film <= 4; ++film) {
        text += fmt::format("{}\t{}\t{}\t0\n", user, film, film % 5 + 1);
      }
    }
    return text;
  }
  fs::path file(const std::string& name) const {
    return folder_ / "movielens" / ("ml-100k." + name);
  }
  void write(const std::string& name, const std::string& text) const {
    write_file_atomic(file(name), text);
  }
  Task load(std::uint64_t seed = 1) const {
    return load_movielens({.folder = folder_.path(), .seed = seed});
  }
  std::string error(const std::string& name, const std::string& text) const {
    const std::string before = read_file(file(name));
    write(name, text);
    const std::string error = error_of([&] { load(); });
    write(name, before);
    const std::string start = "[movielens] " + file(name).string() + ": ";
    return error.starts_with(start) ? error.substr(start.size()) : error;
  }

 private:
  TemporaryFolder folder_;
};

// The columns of x: user, age, gender, occupation, film, year, genres.
constexpr std::int64_t kUser = 0;
constexpr std::int64_t kFilm = 4;

std::int64_t at(const Dataset& data, std::int64_t row, std::int64_t column) {
  return static_cast<std::int64_t>(data.x.at(row * data.x.size(1) + column));
}

// Ratings and what stands in for them, row by row of both parts; the counts of each.
void check_rows(const Task& task) {
  std::map<std::int64_t, std::set<std::int64_t>> rated;
  std::map<std::int64_t, std::set<std::int64_t>> others;
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->x.size(0); ++i) {
      const bool watched = i % 2 == 0;
      REQUIRE(data->labels.at(2 * i + 1) == (watched ? 1 : 0));
      const double rating = data->labels.at(2 * i);
      REQUIRE((watched ? rating >= 1 && rating <= 5 : rating == -1));
      // Each pair of user and film stands there once.
      REQUIRE((watched ? rated : others)[at(*data, i, kUser)].insert(at(*data, i, kFilm)).second);
      if (!watched) REQUIRE(at(*data, i, kUser) == at(*data, i - 1, kUser));
    }
  }
  for (const auto& [user, films] : others) {
    CHECK(films.size() == rated[user].size());
    for (const std::int64_t film : films) REQUIRE(!rated[user].contains(film));
  }
}

TEST_CASE("movielens: fields, ratings, and films that stand in for what was not watched") {
  const Fixture fixture;
  const Task task = fixture.load();
  CHECK(task.fields == std::vector<Field>{{"user", 3},
                                          {"age", 7},
                                          {"gender", 2},
                                          {"occupation", 2},
                                          {"film", 8},
                                          {"year", 12},
                                          {"genres", 3, true}});
  REQUIRE(task.train.x.shape() == Shape{20, 9});
  REQUIRE(task.test.x.shape() == Shape{4, 9});
  CHECK(task.shape().ids);
  CHECK(task.targets[0].partial);
  check_rows(task);
  // By the order of the files; texts in alphabetical order.
  const std::map<std::int64_t, std::array<std::int64_t, 3>> users = {
      {0, {0, 0, 1}}, {1, {1, 1, 0}}, {2, {6, 1, 1}}};
  const auto film = [](std::int64_t place) -> std::array<std::int64_t, 4> {
    if (place == 0) return {1, 0, 0, 1};
    if (place == 1) return {0, 1, 0, 1};
    return {11, 0, 1, 0};
  };
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->x.size(0); ++i) {
      const auto& user = users.at(at(*data, i, kUser));
      for (std::int64_t c = 0; c < 3; ++c) {
        CHECK(at(*data, i, 1 + c) == user[static_cast<std::size_t>(c)]);
      }
      const std::array<std::int64_t, 4> expected = film(at(*data, i, kFilm));
      for (std::int64_t c = 0; c < 4; ++c) {
        CHECK(at(*data, i, 5 + c) == expected[static_cast<std::size_t>(c)]);
      }
      if (data->labels.at(2 * i + 1) == 1) {
        CHECK(data->labels.at(2 * i) == (at(*data, i, kFilm) + 1) % 5 + 1);
      }
    }
  }
  CHECK(fixture.load().train.x.same_bits(task.train.x));
  CHECK(!fixture.load(2).train.x.same_bits(task.train.x));
}

TEST_CASE("movielens: errors") {
  const Fixture fixture;
  const std::string users = read_file(fixture.file("user"));
  const std::string ratings = Fixture::ratings();
  const std::string end = ". Run scripts/data movielens again.";
  CHECK(fixture.error("user", users + "4\told\tF\twriter\t1\n") ==
        "line 5: 'old' is no age from 0 to 150" + end);
  CHECK(fixture.error("user", users + "4\t-1\tF\twriter\t1\n") ==
        "line 5: '-1' is no age from 0 to 150" + end);
  CHECK(fixture.error("user", users + "4\t20\tX\twriter\t1\n") ==
        "line 5: there is no gender 'X'" + end);
  CHECK(fixture.error("user", users + "7\t20\tF\twriter\t1\n") ==
        "line 5: '7' is there twice" + end);
  CHECK(fixture.error("inter", ratings + "8\t1\t3\t0\n") == "line 14: there is no user '8'" + end);
  CHECK(fixture.error("inter", ratings + "7\t9\t3\t0\n") == "line 14: there is no film '9'" + end);
  CHECK(fixture.error("inter", ratings + "7\t5\t6\t0\n") ==
        "line 14: '6' is no rating from 1 to 5" + end);
  CHECK(fixture.error("inter", ratings + "7\t1\t3\t0\n") ==
        "line 14: user '7' rates film '1' a second time" + end);
  CHECK(fixture.error("inter", ratings + "7\t5\t3\t0\n") ==
        "[movielens] user '7' rated 5 of 8 films: too few are left to stand in for what was not "
        "watched" +
            end);
  CHECK(error_of([] { load_movielens({.folder = "nowhere"}); }) ==
        "[movielens] 'nowhere/movielens/ml-100k.user' is missing. Run scripts/data movielens.");
}

TEST_CASE("movielens: the real MovieLens-100K") {
  const fs::path folder = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(folder / "movielens")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const Task task = load_task("movielens", {.folder = folder});
  CHECK(task.train.x.shape() == Shape{160'000, 25});
  CHECK(task.test.x.shape() == Shape{40'000, 25});
  CHECK(task.fields[0].values == 943);
  CHECK(task.fields[3].values == 21);
  CHECK(task.fields[4].values == 1682);
  CHECK(task.fields[6].values == 19);
  check_rows(task);
  std::array<int, 7> count{};
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->labels.size(0); ++i) {
      ++count[static_cast<std::size_t>(data->labels.at(2 * i) + 1)];
    }
  }
  CHECK(count == std::array<int, 7>{100'000, 0, 6110, 11'370, 27'145, 34'174, 21'201});
}

}  // namespace
}  // namespace moegrad
