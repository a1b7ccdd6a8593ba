#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lab/report.h"

namespace moegrad {

// What a study has shown, so that a page can show it again: report.json of its folder.
struct StudyReport {
  std::string study;    // "compare"
  std::string command;  // that made it
  std::string version;
  std::string machine;
  std::string device;
  std::string data;                                                // with a checksum; empty: none
  std::string legend;                                              // lines
  std::vector<std::vector<std::vector<std::string>>> tables = {};  // rows of cells, the head first
  std::vector<Chart> charts = {};
};
std::string to_json(const StudyReport& report);
// An Error where the file is none.
StudyReport read_study_report(const std::filesystem::path& file);

inline std::filesystem::path study_report_of(const std::filesystem::path& folder) {
  return folder / "report.json";
}
// This process's own words: "moegrad study compare --seeds 4".
std::vector<std::string> own_command();
// The word behind "study" of it; empty where there is none.
std::string own_study();
// The processor and the number of its cores.
std::string machine_text();

}  // namespace moegrad
