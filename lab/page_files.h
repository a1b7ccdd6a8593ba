#pragma once

#include <string_view>

// The files that a page is made of, as the build found them: lab/page/embed.cmake writes their
// definitions. `d3` and its licence are empty where it found none.
namespace moegrad::page_files {

extern const std::string_view html, css, js, d3, licence;

}  // namespace moegrad::page_files
