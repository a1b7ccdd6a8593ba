#include "train/plain_rows.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"

namespace moegrad {
namespace {

std::vector<std::string> cells_of(std::string_view line, char separator) {
  std::vector<std::string> cells;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(separator, begin), line.size());
    cells.emplace_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return cells;
}

}  // namespace

void PlainRows::damaged(std::size_t row, std::string_view what) const {
  fail(set, "{}: line {}: {}. Run scripts/data {} again.", path.string(), row + 2, what, set);
}

PlainRows read_plain_rows(const std::filesystem::path& path, std::string_view set, char separator,
                          std::string_view header) {
  if (!path_exists(path)) {
    fail(set, "'{}' is missing. Run scripts/data {}.", path.string(), set);
  }
  if (const std::uint64_t bytes = InputFile(path).size(); bytes > kMostPlainBytes) {
    fail(set, "{}: {} bytes, more than {}. Run scripts/data {} again.", path.string(), bytes,
         kMostPlainBytes, set);
  }
  PlainRows read{.path = path, .set = std::string(set)};
  const std::string text = read_file(path);
  const auto columns = static_cast<std::size_t>(std::ranges::count(header, separator)) + 1;
  bool first = true;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    begin = end + 1;
    if (first && line != header) {
      fail(set, "{}: its header is not '{}'. Run scripts/data {} again.", path.string(), header,
           set);
    }
    if (!first) {
      read.rows.push_back(cells_of(line, separator));
      if (const std::size_t cells = read.rows.back().size(); cells != columns) {
        read.damaged(read.rows.size() - 1, fmt::format("{} cells, not {}", cells, columns));
      }
    }
    first = false;
  }
  if (read.rows.empty()) {
    fail(set, "{}: it has no row. Run scripts/data {} again.", path.string(), set);
  }
  return read;
}

}  // namespace moegrad
