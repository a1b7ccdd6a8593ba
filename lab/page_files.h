#pragma once

#include <string_view>

// The files that pages are made of, as the build found them: lab/page/embed.cmake writes their
// definitions. `d3` and its licence are empty where it found none.
namespace moegrad::page_files {

extern const std::string_view page_html, page_css, page_js;        // of every page
extern const std::string_view report_html, report_css, report_js;  // of runs
extern const std::string_view report_studies_js, report_texts_js;
extern const std::string_view tape_html, tape_css, tape_js, tape_graph_js;
extern const std::string_view d3, licence;

}  // namespace moegrad::page_files
