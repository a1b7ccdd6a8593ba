// `moegrad study distil`: students of a teacher of a few numbers.

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/app/program.h"
#include "tests/train/small_teacher.h"

using namespace moegrad::test;
using nlohmann::json;

namespace {

std::vector<std::string> command(const TemporaryFolder& folder, const SmallTeacher& small,
                                 const std::string& students = "top-k,half") {
  std::vector<std::string> all = {"study",   "distil", "--students", students,
                                  "--seeds", "1",      "--out",      (folder / "study").string()};
  for (const std::string& setting :
       {"data=" + small.data().string(), std::string("width=32"), std::string("heads=1"),
        std::string("hidden=2"), std::string("experts=4"), std::string("layers=2"),
        std::string("activation=gelu"), std::string("context=6"), std::string("steps=2"),
        std::string("batch=3")}) {
    all.insert(all.end(), {"--set", setting});
  }
  return all;
}

}  // namespace

TEST_CASE("study distil: runs, a table with the teacher, rows; done runs are not made again") {
  const TemporaryFolder folder;
  const SmallTeacher small;
  const Outcome first = run(folder, command(folder, small));
  CAPTURE(first.err);
  CHECK(first.code == 0);
  CHECK(first.err.find("the teacher reads 12 sentences") != std::string::npos);
  CHECK(first.err.find("2 of 2 are done") != std::string::npos);
  CHECK(first.out.find("McNemar") != std::string::npos);
  const json rows = json_lines(folder / "study/rows.jsonl");
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["student"] == "top-k");
  CHECK(rows[0]["active_parameters"] == rows[1]["active_parameters"]);
  CHECK(rows[1]["mcnemar"].size() == 1);
  CHECK(rows[2]["student"] == "teacher");
  const json config = json::parse(moegrad::read_file(folder / "study/runs/half-s1/config.json"));
  CHECK(config["router"] == "softmax");
  CHECK(config["experts"] == 2);
  CHECK(config["test_examples"] == 1000);

  const Outcome again = run(folder, command(folder, small));
  CHECK(again.code == 0);
  CHECK(again.err.find("half-s1 is there already") != std::string::npos);
  CHECK(json_lines(folder / "study/rows.jsonl") == rows);
}

TEST_CASE("study distil: errors") {
  const TemporaryFolder folder;
  const SmallTeacher small;
  const Outcome unknown = run(folder, command(folder, small, "top-k,best"));
  CHECK(unknown.code == 2);
  CHECK(unknown.err.find("there is no student 'best'. Choose from: top-k, ") != std::string::npos);
  const Outcome task = run(folder, {"study", "distil", "--set", "task=vision"});
  CHECK(task.code == 2);
  CHECK(task.err.find("the task is 'vision'. Students learn the task distil.") !=
        std::string::npos);
}
