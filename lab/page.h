#pragma once

#include <string>
#include <string_view>

namespace moegrad {

// A page that shows the data (PageData::json) in any browser: one HTML file that asks for nothing
// else. It holds d3 (https://d3js.org) with its licence, and lab/page/report.{html,css,js}, all of
// which the build has put into the program. An Error where the build had no d3.
std::string page_of(std::string_view title, std::string_view json);

}  // namespace moegrad
