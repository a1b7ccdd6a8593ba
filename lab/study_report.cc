#include "lab/study_report.h"

#include <fstream>
#include <limits>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

using Json = nlohmann::ordered_json;

Json chart_object(const Chart& chart) {
  Json series = Json::array();
  for (const Series& s : chart.series) series.push_back({{"name", s.name}, {"values", s.values}});
  return {{"title", chart.title},
          {"axis", chart.axis},
          {"labels", chart.labels},
          {"series", series},
          {"lines", chart.lines}};
}

Chart chart_from(const Json& object) {
  Chart chart{.title = object.at("title"),
              .axis = object.at("axis"),
              .labels = object.at("labels"),
              .series = {},
              .lines = object.at("lines")};
  for (const Json& s : object.at("series")) {
    Series& series = chart.series.emplace_back(Series{s.at("name"), {}});
    for (const Json& value : s.at("values")) {
      series.values.push_back(value.is_number() ? value.get<double>()
                                                : std::numeric_limits<double>::quiet_NaN());
    }
  }
  return chart;
}

}  // namespace

std::string to_json(const StudyReport& report) {
  Json charts = Json::array();
  for (const Chart& chart : report.charts) charts.push_back(chart_object(chart));
  return Json{{"study", report.study},     {"command", report.command}, {"version", report.version},
              {"machine", report.machine}, {"device", report.device},   {"data", report.data},
              {"legend", report.legend},   {"tables", report.tables},   {"charts", charts}}
      .dump(2, ' ', true, Json::error_handler_t::replace);
}

StudyReport read_study_report(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  try {
    const Json object = Json::parse(text);
    StudyReport report{.study = object.at("study"),
                       .command = object.at("command"),
                       .version = object.at("version"),
                       .machine = object.at("machine"),
                       .device = object.at("device"),
                       .data = object.at("data"),
                       .legend = object.at("legend"),
                       .tables = object.at("tables")};
    for (const Json& chart : object.at("charts")) report.charts.push_back(chart_from(chart));
    return report;
  } catch (const Json::exception&) {
    fail("report", "{}: not the report of a study of this version. Make the study again.",
         file.string());
  }
}

std::vector<std::string> own_command() {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  if (!words.empty()) words.front() = std::filesystem::path(words.front()).filename().string();
  return words;
}

std::string own_study() {
  const std::vector<std::string> words = own_command();
  return words.size() > 2 && words[1] == "study" ? words[2] : "";
}

std::string machine_text() {
  std::ifstream file("/proc/cpuinfo");
  std::string name = "unknown processor";
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t begin = line.find(':');
    if (begin != std::string::npos && begin + 2 < line.size()) name = line.substr(begin + 2);
    break;
  }
  return fmt::format("{}, {} threads", name, std::thread::hardware_concurrency());
}

}  // namespace moegrad
