#pragma once

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace moegrad {

// Why the first text that put or flush_text could not write was lost, as errno; 0: none was lost.
inline std::atomic<int> lost_text{0};

inline void flush_text(std::FILE* out) {
  if (std::fflush(out) != 0) {
    int none = 0;
    lost_text.compare_exchange_strong(none, errno);
  }
}

// Formatted text for people, to a stream. A full disk or a closed terminal behind it does not end
// the work that the text is about: lost_text remembers it.
template <class... Args>
void put(std::FILE* out, fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  if (std::fwrite(text.data(), 1, text.size(), out) != text.size()) {
    int none = 0;
    lost_text.compare_exchange_strong(none, errno);
  }
}

}  // namespace moegrad
