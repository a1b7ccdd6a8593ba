#include "lab/study_report.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::TemporaryFolder;

TEST_CASE("the report of a study is read as it was written") {
  const TemporaryFolder folder;
  const StudyReport report{
      .study = "compare",
      .command = "moegrad study compare",
      .version = "1",
      .machine = machine_text(),
      .device = "cpu",
      .data = "",
      .legend = "one\ntwo",
      .tables = {{{"method", "loss"}, {"a", "1.0"}}},
      .charts = {
          {.title = "t", .axis = "nats", .labels = {"a", "b"}, .series = {{"s", {1.5, NAN}}}}}};
  const auto file = study_report_of(folder.path());
  write_file_atomic(file, to_json(report));
  const StudyReport read = read_study_report(file);
  CHECK(to_json(read) == to_json(report));
  CHECK(read.tables == report.tables);
  CHECK(std::isnan(read.charts[0].series[0].values[1]));
  CHECK(read.machine.find("threads") != std::string::npos);
}

TEST_CASE("what is no report of a study") {
  const TemporaryFolder folder;
  for (const char* text : {"", "[]", "{}", R"({"study": 1})",
                           R"({"study":"a","command":"","version":"","machine":"","device":"",)"
                           R"("data":"","legend":"","tables":[[1]],"charts":[]})"}) {
    write_file_atomic(folder / "report.json", text);
    CHECK(error_of([&] {
            read_study_report(folder / "report.json");
          }).find("not the report of a study of this version. Make the study again.") !=
          std::string::npos);
  }
}
