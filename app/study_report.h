#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/table.h"
#include "lab/logged_run.h"
#include "lab/report.h"
#include "lab/study_report.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/put.h"

namespace moegrad {

// The folder of a report, made before the work and kept from other processes until it is written.
// Nothing of it stays where the work fails before it has written anything.
class Report {
 public:
  // `inputs`: what the study reads, or writes besides its report.
  Report(const std::filesystem::path& folder, const JsonOutput& output,
         std::vector<std::string> inputs = {})
      : folder_(free(folder, output, std::move(inputs))), lock_(folder_.path()), output_(output) {
    for (const std::filesystem::path& file :
         {rows_file(), script_file(), plot_file(), study_report_of(folder_.path())})
      require_writable(file);
    require_same_study();
    output.require();
  }

  // Writes rows.jsonl, a row a line, report.json, which `moegrad report` reads, and, where gnuplot is
  // there, plot.svg; then prints the tables, their legend, and says where they are, and where they
  // were computed.
  void write(const nlohmann::ordered_json& rows, const std::vector<Chart>& charts,
             const std::vector<Table>& tables, Device device, std::string_view legend = {},
             std::string_view data = {}) const {
    const std::string text = json_text(rows);
    std::string lines;
    for (const auto& row : rows) lines += json_line(row) + "\n";
    lock_.require_held();
    write_file_atomic(rows_file(), lines);
    StudyReport report{.study = "",
                       .command = "",
                       .version = MOEGRAD_VERSION,
                       .machine = machine_text(),
                       .device = std::string(name_of(device)),
                       .data = std::string(data),
                       .legend = std::string(legend),
                       .tables = {},
                       .charts = charts};
    for (const std::string& word : own_command()) report.command += shell_word(word) + " ";
    if (!report.command.empty()) report.command.pop_back();
    report.study = own_study();
    for (const Table& table : tables) report.tables.push_back(table.rows());
    write_file_atomic(study_report_of(folder_.path()), to_json(report) + "\n");
    if (!output_.file.empty()) output_.write(text);
    const Plot plot = plot_svg(plot_file(), charts);
    if (output_.wanted && output_.file.empty()) {
      output_.write(text);
    } else {
      std::string shown_tables;
      for (const Table& table : tables) {
        shown_tables += (shown_tables.empty() ? "" : "\n") + table.text();
      }
      put(stdout, "{}{}{}computed on the {} device; written to {}: rows.jsonl{}\n", shown_tables,
          legend, legend.empty() ? "" : "\n", name_of(device), shown(folder_.path().string()),
          plot == Plot::drawn ? ", plot.svg" : "");
    }
    if (plot == Plot::no_gnuplot) {
      put(stderr, "no plot: gnuplot is not installed (Debian: gnuplot-nox).\n");
    }
    if (plot == Plot::nothing_to_draw) put(stderr, "no plot: no figure has a value.\n");
  }

 private:
  // Another study's report would be lost.
  void require_same_study() const {
    const std::filesystem::path file = study_report_of(folder_.path());
    if (!path_exists(file)) return;
    std::string there;
    try {
      there = read_study_report(file).study;
    } catch (const Error&) {
      return;  // of another version, or half a file: made again
    }
    const std::string here = own_study();
    if (there == here) return;
    fail("study", "'{}' has the report of the study {}, and this is {}. Choose another --out.",
         folder_.path().string(), there, here);
  }
  std::filesystem::path rows_file() const { return folder_.path() / "rows.jsonl"; }
  std::filesystem::path plot_file() const { return folder_.path() / "plot.svg"; }
  std::filesystem::path script_file() const { return folder_.path() / "plot.gp"; }
  // The folder, where no output is an input or another output.
  static std::filesystem::path free(const std::filesystem::path& folder, const JsonOutput& output,
                                    std::vector<std::string> inputs) {
    const std::vector<std::string> own = {folder / "rows.jsonl", folder / "plot.svg",
                                          folder / "plot.gp", study_report_of(folder)};
    require_distinct("study", inputs, own);
    inputs.insert(inputs.end(), own.begin(), own.end());
    require_distinct("study", inputs, {output.file});
    return folder;
  }

  OutputFolder folder_;
  FolderLock lock_;
  const JsonOutput& output_;
};

}  // namespace moegrad
