#pragma once

#include <atomic>
#include <cstdio>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace moegrad {

// Why the first text that put could not write was lost, as errno; 0: none was lost.
inline std::atomic<int> lost_text{0};

// Writes all of the text at once, around the stream's buffer, which forgets text where the reader
// of a stream that does not block is slow: there it waits.
void put_text(std::FILE* out, std::string_view text);

// Formatted text for people, to a stream. A full disk or a closed terminal behind it does not end
// the work that the text is about: lost_text remembers it.
template <class... Args>
void put(std::FILE* out, fmt::format_string<Args...> format, Args&&... args) {
  put_text(out, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace moegrad
