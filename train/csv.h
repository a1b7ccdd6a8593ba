#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace moegrad {

// A text of cells, as its file has them. The cells lie in `text`, which a copy would leave behind.
struct CsvFile {
  CsvFile() = default;
  CsvFile(CsvFile&&) = default;
  CsvFile& operator=(CsvFile&&) = default;

  std::vector<char> text;
  std::vector<std::string_view> cells;  // row-major
  std::vector<std::int64_t> lines;      // that each row begins on, from 1
  std::size_t columns = 0;

  std::size_t rows() const { return lines.size(); }
  std::string_view cell(std::size_t row, std::size_t column) const {
    return cells[row * columns + column];
  }
};

// What is accepted of a file that may be anything.
struct CsvLimits {
  std::uint64_t bytes = 1 << 30;
  std::size_t cells = 1 << 27;
  std::size_t columns = 1 << 16;
};

// Comma-separated values (RFC 4180), in UTF-8, with or without a byte order mark; a line ends with LF,
// CR LF or CR. Separated by tabs where the name ends with .tsv, or the first line has a tab and no
// comma. Blanks around a cell that is not quoted are no part of it; empty lines are left out. Each
// row has as many cells as the first. Errors name the line, as an editor counts them.
CsvFile read_csv(const std::filesystem::path& path, const CsvLimits& limits = {});

}  // namespace moegrad
