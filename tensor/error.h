#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace moegrad {

// A mistake of the caller: a shape that does not agree, an unknown name, a damaged file.
// The text reads `[operation] what is wrong, with the actual values. What to do.`
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error("[operation] message"), the message formatted by fmt.
template <class... Args>
[[noreturn]] void fail(std::string_view operation, fmt::format_string<Args...> format,
                       Args&&... args) {
  throw Error("[" + std::string(operation) + "] " +
              fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace moegrad
