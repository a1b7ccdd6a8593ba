#include "lab/page.h"

#include <string>

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
  const std::string page = page_of("Runs & <others>", R"({"runs": []})");
  CHECK(count(page, "<title>Runs &amp; &lt;others></title>") == 1);
  CHECK(count(page, R"(<script type="application/json" id="data">{"runs": []}</script>)") == 1);
  for (const std::string_view part : {page_files::css, page_files::js, page_files::d3}) {
    CHECK(part.size() > 1000);
    CHECK(count(page, part) == 1);
    CHECK(count(part, "</") == 0);
  }
  CHECK(page_files::d3.starts_with("// https://d3js.org v5.16.0 "));
  CHECK(page.find("Redistribution and use in source and binary forms") != std::string::npos);
  CHECK(page.find("Mike Bostock (https://bost.ocks.org/mike)") != std::string::npos);
  CHECK(count(page, "{{") ==
        count(page_files::d3, "{{") + count(page_files::js, "{{") + count(page_files::css, "{{"));
}

TEST_CASE("page_of: the files are those of the sources") {
  const std::string folder = std::string(MOEGRAD_SOURCE_DIR) + "/lab/page/report.";
  CHECK(page_files::html == read_file(folder + "html"));
  CHECK(page_files::css == read_file(folder + "css"));
  CHECK(page_files::js == read_file(folder + "js"));
}

TEST_CASE("page_of: asks for nothing else") {
  const std::string page = page_of("x", "{}");
  for (const char* part : {" src=", "<link", "@import", "url("}) CHECK(count(page, part) == 0);
  CHECK(count(page, "default-src 'none'") == 1);
}

TEST_CASE("page_of: no text ends the block of data") {
  const nlohmann::json data = {"</script><script>alert(1)</script>", "<!--<script>", "]]>",
                               "{{d3}}"};
  const std::string page = page_of("x", data.dump());
  const std::string_view open = R"(id="data">)";
  const std::size_t begin = page.find(open) + open.size();
  const std::string block = page.substr(begin, page.find("</script", begin) - begin);
  CHECK(block.find('<') == std::string::npos);
  CHECK(nlohmann::json::parse(block) == data);
}

}  // namespace
}  // namespace moegrad
