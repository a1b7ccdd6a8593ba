#pragma once

#include <filesystem>
#include <string_view>

namespace moegrad {

// The folder of a data set of scripts/data: files, and SOURCE, with a line "bytes N FILE" for each of
// them. An Error where one has another size, as of a copy that was broken off. Without SOURCE, or
// such lines, there is nothing to compare with; files that are missing are found by who reads them.
void require_whole(const std::filesystem::path& folder, std::string_view name);

}  // namespace moegrad
