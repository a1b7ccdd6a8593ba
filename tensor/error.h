#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace moegrad {

// A mistake of the caller: a shape that does not agree, an unknown name, a damaged file.
// The text reads `[operation] what is wrong, with the actual values. What to do.`
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Somebody asks to stop, with Ctrl-C say: not an outcome of what runs. Checks, which go on where a
// program throws anything else, let it through.
class Interruption : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

// Text of a user or a file (a name, a path, a value) as a message may show it: on one line, without
// anything that a terminal obeys, not too long. Control characters, bytes that are not UTF-8, line
// separators and marks that turn the direction of writing become escapes (\x1b, \u202e). Of more
// than kLongestShown bytes the middle is left out and their number said.
inline constexpr std::size_t kLongestShown = 600;
std::string shown(std::string_view text);

// Whether the text is well-formed UTF-8.
bool is_utf8(std::string_view text);

namespace detail {
template <class T>
decltype(auto) shown_argument(const T& value) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return shown(value);
  } else {
    return (value);
  }
}
}  // namespace detail

// fmt::format with shown() text: every argument that is a text goes through it.
template <class... Args>
std::string shown_format(fmt::format_string<Args...> format, Args&&... args) {
  const auto write = [&](const auto&... values) {
    return fmt::vformat(fmt::string_view(format), fmt::make_format_args(values...));
  };
  return write(detail::shown_argument(args)...);
}

// Throws Error("[operation] message"), the message by shown_format.
template <class... Args>
[[noreturn]] void fail(std::string_view operation, fmt::format_string<Args...> format,
                       Args&&... args) {
  throw Error("[" + std::string(operation) + "] " +
              shown_format(format, std::forward<Args>(args)...));
}

}  // namespace moegrad
