#include "lab/page.h"

#include <map>

#include "lab/page_files.h"
#include "tensor/error.h"

namespace moegrad {
namespace {

std::string replaced(std::string_view text, char letter, std::string_view by) {
  std::string out;
  for (const char c : text) out += c == letter ? std::string(by) : std::string(1, c);
  return out;
}

std::string as_html(std::string_view text) {
  return replaced(replaced(text, '&', "&amp;"), '<', "&lt;");
}

// JSON has the letter in its texts alone, where \u003c is the same: with it no </script> and no
// <!-- is left that would end the block, whatever the texts are.
std::string as_block(std::string_view json) { return replaced(json, '<', "\\u003c"); }

// What differs between the kinds.
struct PageKind {
  std::string_view operation, body, style;
  std::string script;
};
PageKind kind_of_page(PageOf kind) {
  using namespace page_files;
  if (kind == PageOf::runs) {
    return {"report", report_html, report_css,
            std::string(report_texts_js).append(report_studies_js).append(report_js)};
  }
  return {"tape", tape_html, tape_css, std::string(tape_graph_js).append(tape_js)};
}

}  // namespace

std::string page_of(PageOf kind, std::string_view title, std::string_view json) {
  const PageKind own = kind_of_page(kind);
  if (page_files::d3.empty()) {
    fail(own.operation,
         "this build has no d3, which draws the page. Run scripts/setup, then configure and build "
         "again: cmake --preset release && cmake --build --preset release");
  }
  const std::map<std::string_view, std::string> parts = {
      {"title", as_html(title)},
      {"style", std::string(page_files::page_css).append(own.style)},
      {"body", std::string(own.body)},
      {"data", as_block(json)},
      {"d3", std::string(page_files::d3)},
      {"script", std::string(page_files::page_js) + own.script},
      {"licence", as_html(page_files::licence)}};
  std::string page;
  std::string_view rest = page_files::page_html;
  for (std::size_t begin = rest.find("{{"); begin != std::string_view::npos;
       begin = rest.find("{{")) {
    const std::size_t end = rest.find("}}", begin);
    page.append(rest.substr(0, begin)).append(parts.at(rest.substr(begin + 2, end - begin - 2)));
    rest.remove_prefix(end + 2);
  }
  return page.append(rest);
}

}  // namespace moegrad
