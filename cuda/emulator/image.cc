// What the program knows of itself: its lines, and what of it cannot be written.
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include "cuda/emulator/observer.h"

namespace cuda_emulator::observer {
namespace {

struct Range {
  std::uintptr_t begin, end;
};
struct Ranges {
  std::vector<Range> constant, variable;
};
// Of all files that are mapped now; libraries that are opened later are not known.
const Ranges& ranges() {
  static const auto* const found = [] {
    auto* const all = new Ranges;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* into) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            const bool relocated = segment.p_type == PT_GNU_RELRO;
            if (!relocated && segment.p_type != PT_LOAD) continue;
            const bool variable = !relocated && (segment.p_flags & PF_W) != 0;
            const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
            auto& to = *static_cast<Ranges*>(into);
            (variable ? to.variable : to.constant).push_back({begin, begin + segment.p_memsz});
          }
          return 0;
        },
        all);
    return all;
  }();
  return *found;
}
bool holds(const std::vector<Range>& all, const void* at) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  for (const Range& range : all) {
    if (place >= range.begin && place < range.end) return true;
  }
  return false;
}

// "file.cu:12" of "/path/file.cu:12 (discriminator 3)"; empty: not a line of a kernel.
std::string short_line(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  if (const std::size_t extra = line.find(" ("); extra != line.npos) line = line.substr(0, extra);
  if (line.empty() || line.front() == '?' || line.starts_with("/usr/")) return {};
  // What kernel.h defines in line belongs to who calls it.
  constexpr std::string_view kHere = "cuda/emulator/";
  const std::size_t own = line.rfind(kHere);
  if (own != line.npos && line.find('/', own + kHere.size()) == line.npos &&
      line.find(".h:") != line.npos) {
    return {};
  }
  const std::size_t slash = line.rfind('/');
  return std::string(slash == line.npos ? line : line.substr(slash + 1));
}

std::string find_line(const void* code) {
  Dl_info info;
  link_map* image = nullptr;
  if (code == nullptr ||
      dladdr1(code, &info, reinterpret_cast<void**>(&image), RTLD_DL_LINKMAP) == 0) {
    return {};
  }
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(code) - image->l_addr - 1;
  // The program's own name may be relative to a folder that it has left.
  const bool is_program = image->l_name == nullptr || image->l_name[0] == 0;
  const std::string file =
      is_program ? "/proc/" + std::to_string(getpid()) + "/exe" : image->l_name;
  char command[1024];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", file.c_str(),
                static_cast<std::size_t>(offset));
  std::string found;
  if (std::FILE* const output = popen(command, "r"); output != nullptr) {
    char line[1024];
    while (std::fgets(line, sizeof line, output) != nullptr) {
      if (found.empty()) found = short_line(line);
    }
    pclose(output);
  }
  return found;
}

}  // namespace

bool is_constant(const void* at) { return holds(ranges().constant, at); }
bool is_static(const void* at) { return !is_constant(at) && holds(ranges().variable, at); }

std::string line_of(const void* code) {
  static auto* const known = new std::map<const void*, std::string>;
  if (const auto found = known->find(code); found != known->end()) return found->second;
  return known->emplace(code, find_line(code)).first->second;
}

}  // namespace cuda_emulator::observer
