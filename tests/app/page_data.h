#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "tensor/files.h"

namespace moegrad::test {

// What a page shows: the JSON that stands in it.
inline nlohmann::json page_data(const std::filesystem::path& file) {
  const std::string page = read_file(file);
  constexpr std::string_view kOpen = R"(id="data">)";
  const std::size_t begin = page.find(kOpen) + kOpen.size();
  return nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

}  // namespace moegrad::test
