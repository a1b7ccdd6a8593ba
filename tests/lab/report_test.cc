// The plots of a study's report, by gnuplot.
#include "lab/report.h"

#include <cmath>
#include <filesystem>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::TemporaryFolder;

TEST_CASE("a plot is an SVG with the names of its series") {
  const TemporaryFolder folder;
  const Chart bars{.title = "it's a \"title\"",
                   .axis = "value",
                   .labels = {"one", "two"},
                   .series = {{"first_series", {1.0, -2.0}}, {"second", {0.5, 0.25}}}};
  Chart lines = bars;
  lines.lines = true;
  REQUIRE(plot_svg(folder / "it's.svg", {bars, lines}) == Plot::drawn);
  const std::string svg = read_file(folder / "it's.svg");
  CHECK(svg.find("<svg") != std::string::npos);
  CHECK(svg.find("first_series") != std::string::npos);
  CHECK(svg.find("it's a") != std::string::npos);

  // Nothing that a chart says is a command.
  const std::string touch = "touch '" + (folder / "pwned").string() + "'";
  for (const std::string& text :
       {"`" + touch + "`", "'\n!" + touch + "\n", "\"\nEOD\nsystem \"" + touch + "\"\n"}) {
    const Chart chart{
        .title = text, .axis = text, .labels = {text, "EOD"}, .series = {{text, {1.0, 2.0}}}};
    REQUIRE(plot_svg(folder / "plot.svg", {chart}) == Plot::drawn);
    const std::string drawn = read_file(folder / "plot.svg");
    CHECK(drawn.find(touch) != std::string::npos);
    CHECK(drawn.find("</svg>") != std::string::npos);
    CHECK(!std::filesystem::exists(folder / "pwned"));
  }
}

TEST_CASE("a plot without what has no value") {
  const TemporaryFolder folder;
  const double none = std::nan("");
  const Chart some{.title = "some",
                   .axis = "value",
                   .labels = {"one", "two"},
                   .series = {{"a hole", {none, 2.0}}, {"no value", {none, none}}}};
  const Chart empty{.title = "empty", .labels = {"one"}, .series = {{"no value", {none}}}};
  REQUIRE(plot_svg(folder / "plot.svg", {empty, some}) == Plot::drawn);
  const std::string svg = read_file(folder / "plot.svg");
  CHECK(svg.find("a hole") != std::string::npos);
  CHECK(svg.find("no value") == std::string::npos);
  CHECK(svg.find("empty") == std::string::npos);
  // Nor is the plot of other rows left.
  CHECK(plot_svg(folder / "plot.svg", {empty}) == Plot::nothing_to_draw);
  CHECK(plot_svg(folder / "plot.svg", {}) == Plot::nothing_to_draw);
  CHECK(folder.files() == 0);
}
