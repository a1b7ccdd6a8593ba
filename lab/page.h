#pragma once

#include <string>
#include <string_view>

namespace moegrad {

// What a page shows: training runs (PageData::json), or a tape (lab/tape_page.h).
enum class PageOf { runs, tape };

// A page that shows the data in any browser: one HTML file that asks for nothing else. It holds d3
// (https://d3js.org) with its licence, and of lab/page/ the files page.* and those of its kind, all
// of which the build has put into the program. An Error where the build had no d3.
std::string page_of(PageOf kind, std::string_view title, std::string_view json);

}  // namespace moegrad
