#include "train/data_folder.h"

#include <cstdint>
#include <sstream>
#include <string>
#include <system_error>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"

namespace moegrad {

namespace fs = std::filesystem;

void require_whole(const fs::path& folder, std::string_view name) {
  const fs::path source = folder / "SOURCE";
  if (!path_exists(source)) return;
  std::istringstream lines(read_file(source));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word, file;
    std::uintmax_t bytes = 0;
    if (!(words >> word >> bytes) || word != "bytes" || !std::getline(words >> std::ws, file)) {
      continue;
    }
    std::error_code missing;
    const std::uintmax_t here = fs::file_size(folder / file, missing);
    if (missing || here == bytes) continue;
    fail("data", "'{}' has {} bytes, and was made with {}. Run scripts/data {}.",
         (folder / file).string(), here, bytes, name);
  }
}

}  // namespace moegrad
