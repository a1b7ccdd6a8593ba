#include "lab/report.h"

#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

// In gnuplot's double quotes.
std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string data_block(const Chart& chart, std::size_t number) {
  std::string out = fmt::format("$chart{} << EOD\n", number);
  for (std::size_t row = 0; row < chart.labels.size(); ++row) {
    out += in_quotes(chart.labels[row]);
    for (const Series& s : chart.series) {
      out += std::isfinite(s.values[row]) ? fmt::format(" {:.9g}", s.values[row]) : " NaN";
    }
    out += "\n";
  }
  return out + "EOD\n";
}

std::string script(const std::filesystem::path& file, const std::vector<Chart>& charts) {
  std::size_t widest = 0;
  for (const Chart& chart : charts) widest = std::max(widest, chart.labels.size());
  std::string out = fmt::format(
      "set terminal svg size {},{} noenhanced background 'white'\nset output {}\n",
      std::max<std::size_t>(720, 200 + 28 * widest), 420 * charts.size(), in_quotes(file.string()));
  for (std::size_t i = 0; i < charts.size(); ++i) out += data_block(charts[i], i);
  out += fmt::format("set multiplot layout {},1\nset grid ytics\nset key outside right top\n",
                     charts.size());
  out += "set xtics rotate by -40 noenhanced\nset style fill solid 0.8 border -1\n";
  for (std::size_t i = 0; i < charts.size(); ++i) {
    const Chart& chart = charts[i];
    out += fmt::format("set title {} noenhanced\nset ylabel {} noenhanced\n",
                       in_quotes(chart.title), in_quotes(chart.axis));
    out += chart.lines ? "set style data linespoints\n"
                       : "set yrange [*<0:*]\nset style data histogram\n"
                         "set style histogram clustered gap 1\n";
    out += "plot ";
    for (std::size_t s = 0; s < chart.series.size(); ++s) {
      out += fmt::format("{}$chart{} using {}:xtic(1) title {} noenhanced", s == 0 ? "" : ", ", i,
                         s + 2, in_quotes(chart.series[s].name));
    }
    out += "\n";
  }
  return out + "unset multiplot\n";
}

}  // namespace

bool plot_svg(const std::filesystem::path& file, const std::vector<Chart>& charts) {
  if (std::system("command -v gnuplot >/dev/null 2>&1") != 0) return false;
  std::filesystem::path commands = file;
  commands.replace_extension(".gp");
  write_file_atomic(commands, script(file, charts));
  std::string shell = "gnuplot '";
  for (const char c : commands.string())
    shell += c == '\'' ? std::string("'\\''") : std::string(1, c);
  if (std::system((shell + "'").c_str()) != 0) {
    fail("plot", "gnuplot could not draw '{}'. Its message is above.", commands.string());
  }
  return true;
}

}  // namespace moegrad
