#include "train/adult.h"

#include <cmath>
#include <filesystem>
#include <set>
#include <string>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

const std::string kHeader =
    "age,workclass,fnlwgt,education,educational-num,marital-status,occupation,relationship,race,"
    "gender,capital-gain,capital-loss,hours-per-week,native-country,income\n";

// Person i of ten: age 20 + i, two kinds of work, three marital states.
std::string person(int i) {
  return fmt::format("{},{},7,HS,9,{},Sales,Wife,White,Male,0,0,40,?,{}\n", 20 + i,
                     i % 2 == 0 ? "Private" : "State",
                     std::string(1, static_cast<char>('A' + i % 3)), i < 5 ? "<=50K" : ">50K");
}

class Fixture {
 public:
  Fixture() { fs::create_directory(folder_ / "adult"); }
  Task load(const std::string& text) const {
    write_file_atomic(file(), text);
    return load_adult({.folder = folder_.path(), .dtype = DType::f64});
  }
  std::string error(const std::string& text) const {
    return error_of([&] { load(text); });
  }
  fs::path file() const { return folder_ / "adult" / "adult.csv"; }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("adult: numbers standardised by the training rows, texts as ones") {
  const Fixture fixture;
  std::string text = kHeader;
  for (int i = 0; i < 10; ++i) text += person(i);
  const Task task = fixture.load(text);
  // Six numbers; two kinds of work, one value of each other text.
  REQUIRE(task.train.x.shape() == Shape{8, 6 + 2 + 5});
  REQUIRE(task.test.x.shape() == Shape{2, 13});
  CHECK(task.targets == std::vector<Target>{{.name = "income", .kind = Target::Kind::binary},
                                            {.name = "marital", .classes = 3}});
  double sum = 0.0;
  double squares = 0.0;
  for (std::int64_t i = 0; i < 8; ++i) {
    sum += task.train.x.at(13 * i);
    squares += task.train.x.at(13 * i) * task.train.x.at(13 * i);
  }
  CHECK(sum == doctest::Approx(0.0));
  CHECK(squares == doctest::Approx(8.0));
  // A step of one year.
  const double year = (task.train.x.at(13 * 7) - task.train.x.at(0)) /
                      std::round((task.train.x.at(13 * 7) - task.train.x.at(0)) / 0.35);
  std::set<int> persons;
  for (const Dataset* data : {&task.train, &task.test}) {
    for (std::int64_t i = 0; i < data->x.size(0); ++i) {
      const auto x = [&](std::int64_t column) { return data->x.at(13 * i + column); };
      CHECK(x(1) == 0.0);  // one value alone has no deviation
      const bool even = x(6) == 1.0;
      CHECK(x(7) == (even ? 0.0 : 1.0));
      for (std::int64_t c = 8; c < 13; ++c) CHECK(x(c) == 1.0);
      // The person of these labels and this kind of work.
      int found = -1;
      for (int p = 0; p < 10; ++p) {
        if ((p % 2 == 0) == even && (p < 5 ? 0 : 1) == data->labels.at(2 * i) &&
            p % 3 == data->labels.at(2 * i + 1)) {
          if (!persons.contains(p)) found = p;
        }
      }
      REQUIRE(found >= 0);
      persons.insert(found);
    }
  }
  CHECK(persons.size() == 10);
  CHECK(year > 0.0);
}

TEST_CASE("adult: errors") {
  const Fixture fixture;
  const std::string start = "[adult] " + fixture.file().string() + ": ";
  const std::string end = ". Run scripts/data adult again.";
  std::string row = person(0);
  row.replace(0, 2, "old");
  CHECK(fixture.error(kHeader + person(1) + row) ==
        start + "line 3: 'old' is no number from -1e9 to 1e9" + end);
  row = person(0);
  row.replace(0, 2, "nan");
  CHECK(fixture.error(kHeader + row) ==
        start + "line 2: 'nan' is no number from -1e9 to 1e9" + end);
  row = person(0);
  row.replace(row.find("<=50K"), 5, "much");
  CHECK(fixture.error(kHeader + row) == start + "line 2: 'much' is no income, <=50K or >50K" + end);
  std::string many = kHeader;
  for (int i = 0; i < 1001; ++i) {
    row = person(0);
    many += row.replace(row.find("Sales"), 5, std::to_string(i));
  }
  CHECK(fixture.error(many) == start + "line 1002: more than 1000 values in column 7" + end);
  CHECK(error_of([] { load_adult({.folder = "nowhere"}); }) ==
        "[adult] 'nowhere/adult/adult.csv' is missing. Run scripts/data adult.");
}

TEST_CASE("adult: the real one") {
  const fs::path folder = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(folder / "adult")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const Task task = load_task("adult", {.folder = folder});
  // 6 numbers; of the texts 9, 16, 15, 5, 2 and 42 values.
  CHECK(task.train.x.shape() == Shape{39'074, 95});
  CHECK(task.test.x.shape() == Shape{9'768, 95});
  CHECK(task.targets[1].classes == 7);
  int rich = 0;
  for (const Dataset* data : {&task.train, &task.test}) {
    check_finite(*data);
    for (std::int64_t i = 0; i < data->labels.size(0); ++i) rich += data->labels.at(2 * i) == 1;
  }
  CHECK(rich == 11'687);
}

}  // namespace
}  // namespace moegrad
