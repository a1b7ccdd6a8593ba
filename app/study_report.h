#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/table.h"
#include "lab/report.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/put.h"

namespace moegrad {

// The folder of a report, made before the work and kept from other processes until it is written.
class Report {
 public:
  // `inputs`: what the study reads, or writes besides its report.
  Report(const std::filesystem::path& folder, const JsonOutput& output,
         std::vector<std::string> inputs = {})
      : folder_(made(folder, output, std::move(inputs))), lock_(folder_), output_(output) {
    for (const std::filesystem::path& file : {rows_file(), script_file(), plot_file()})
      require_writable(file);
    output.require();
  }

  // Writes rows.json and, where gnuplot is there, plot.svg; then prints the table, its legend, and
  // says where they are, and where they were computed.
  void write(const nlohmann::ordered_json& rows, const std::vector<Chart>& charts,
             const Table& table, Device device, std::string_view legend = {}) const {
    const std::string text = json_text(rows);
    lock_.require_held();
    write_file_atomic(rows_file(), text + "\n");
    if (!output_.file.empty()) output_.write(text);
    const Plot plot = plot_svg(plot_file(), charts);
    if (output_.wanted && output_.file.empty()) {
      output_.write(text);
    } else {
      put(stdout, "{}{}{}computed on the {} device; written to {}: rows.json{}\n", table.text(),
          legend, legend.empty() ? "" : "\n", name_of(device), shown(folder_.string()),
          plot == Plot::drawn ? ", plot.svg" : "");
    }
    if (plot == Plot::no_gnuplot) {
      put(stderr, "no plot: gnuplot is not installed (Debian: gnuplot-nox).\n");
    }
    if (plot == Plot::nothing_to_draw) put(stderr, "no plot: no figure has a value.\n");
  }

 private:
  std::filesystem::path rows_file() const { return folder_ / "rows.json"; }
  std::filesystem::path plot_file() const { return folder_ / "plot.svg"; }
  std::filesystem::path script_file() const { return folder_ / "plot.gp"; }
  static std::filesystem::path made(const std::filesystem::path& folder, const JsonOutput& output,
                                    std::vector<std::string> inputs) {
    const std::vector<std::string> plots = {folder / "plot.svg", folder / "plot.gp"};
    require_distinct("study", inputs, {folder / "rows.json", plots[0], plots[1]});
    // The rows may go to rows.json twice: they are the same.
    inputs.insert(inputs.end(), plots.begin(), plots.end());
    require_distinct("study", inputs, {output.file});
    make_folder(folder);
    return folder;
  }

  std::filesystem::path folder_;
  FolderLock lock_;
  const JsonOutput& output_;
};

}  // namespace moegrad
