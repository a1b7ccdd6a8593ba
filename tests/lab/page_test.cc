#include "lab/page.h"

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "lab/page_files.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST_CASE("page_of: every part is in it, once, and nothing is left of the template") {
  using namespace page_files;
  for (const PageOf kind : {PageOf::runs, PageOf::tape}) {
    const std::string page = page_of(kind, "Runs & <others>", R"({"runs": []})");
    CHECK(count(page, "<title>Runs &amp; &lt;others></title>") == 1);
    CHECK(count(page, R"(<script type="application/json" id="data">{"runs": []}</script>)") == 1);
    std::vector<std::string_view> parts = {page_css, page_js, d3};
    if (kind == PageOf::runs) {
      parts.insert(parts.end(), {report_css, report_texts_js, report_js});
    } else {
      parts.insert(parts.end(), {tape_css, tape_graph_js, tape_js});
    }
    std::size_t braces = 0;
    for (const std::string_view part : parts) {
      CHECK(part.size() > 1000);
      CHECK(count(page, part) == 1);
      CHECK(count(part, "</") == 0);
      braces += count(part, "{{");
    }
    CHECK(count(page, kind == PageOf::runs ? report_html : tape_html) == 1);
    CHECK(count(page, "{{") == braces);
    CHECK(page.find("Redistribution and use in source and binary forms") != std::string::npos);
    CHECK(page.find("Mike Bostock (https://bost.ocks.org/mike)") != std::string::npos);
  }
  CHECK(d3.starts_with("// https://d3js.org v5.16.0 "));
}

TEST_CASE("page_of: the files are those of the sources") {
  using namespace page_files;
  const std::string folder = std::string(MOEGRAD_SOURCE_DIR) + "/lab/page/";
  for (const auto& [name, text] : {std::pair("page.html", page_html),
                                   {"page.css", page_css},
                                   {"page.js", page_js},
                                   {"report.html", report_html},
                                   {"report.css", report_css},
                                   {"report.js", report_js},
                                   {"report_texts.js", report_texts_js},
                                   {"report_studies.js", report_studies_js},
                                   {"tape.html", tape_html},
                                   {"tape.css", tape_css},
                                   {"tape.js", tape_js},
                                   {"tape_graph.js", tape_graph_js}}) {
    CHECK(text == read_file(folder + name));
  }
}

TEST_CASE("page_of: asks for nothing else") {
  const std::string page = page_of(PageOf::runs, "x", "{}");
  for (const char* part : {" src=", "<link", "@import", "url("}) CHECK(count(page, part) == 0);
  CHECK(count(page, "default-src 'none'") == 1);
}

TEST_CASE("page_of: no text ends the block of data") {
  const nlohmann::json data = {"</script><script>alert(1)</script>", "<!--<script>", "]]>",
                               "{{d3}}"};
  const std::string page = page_of(PageOf::runs, "x", data.dump());
  const std::string_view open = R"(id="data">)";
  const std::size_t begin = page.find(open) + open.size();
  const std::string block = page.substr(begin, page.find("</script", begin) - begin);
  CHECK(block.find('<') == std::string::npos);
  CHECK(nlohmann::json::parse(block) == data);
}

}  // namespace
}  // namespace moegrad
