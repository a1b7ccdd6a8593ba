#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace moegrad {

// One series of a plot: a name, and its values; NaN where there is none.
struct Series {
  std::string name;
  std::vector<double> values;
};

// A chart drawn by gnuplot: of every label a group of bars, or with `lines` a point of each line.
struct Chart {
  std::string title = {};
  std::string axis = {};                 // of the values
  std::vector<std::string> labels = {};  // of the groups, or of the points along x
  std::vector<Series> series = {};
  bool lines = false;
};

// Writes the charts, one below the other, to an SVG file, and beside it the script NAME.gp that
// draws it: gnuplot -d NAME.gp > NAME.svg. Series without a finite value are left out. Where there
// is none with one, neither is written; where gnuplot is not installed, only the script. Files of
// these names that were there are removed first. An Error where gnuplot fails.
enum class Plot { drawn, no_gnuplot, nothing_to_draw };
Plot plot_svg(const std::filesystem::path& file, const std::vector<Chart>& charts);

}  // namespace moegrad
