#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace moegrad {

// The rows of a data set of scripts/data that is text without quotes: lines of cells with a separator
// between them, the first of them the header.
struct PlainRows {
  std::filesystem::path path;
  std::string set;  // the name that scripts/data knows
  std::vector<std::vector<std::string>> rows = {};

  // An Error of a row: "[set] path: line 7: what. Run scripts/data set again."
  [[noreturn]] void damaged(std::size_t row, std::string_view what) const;
};

// Errors: a file that is missing, or larger than kMostPlainBytes; another header; a row with another
// number of cells; no row.
inline constexpr std::uint64_t kMostPlainBytes = 100'000'000;
PlainRows read_plain_rows(const std::filesystem::path& path, std::string_view set, char separator,
                          std::string_view header);

}  // namespace moegrad
