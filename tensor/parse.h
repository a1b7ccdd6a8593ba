#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>

namespace moegrad {

// The number that the whole text is, in decimal, within [low, high]; nothing otherwise. No spaces,
// no '+', nothing that T cannot hold, no NaN.
template <class T>
inline constexpr T kHighest = std::numeric_limits<T>::has_infinity
                                  ? std::numeric_limits<T>::infinity()
                                  : std::numeric_limits<T>::max();
template <class T>
inline constexpr T kLowest = std::numeric_limits<T>::has_infinity
                                 ? -std::numeric_limits<T>::infinity()
                                 : std::numeric_limits<T>::lowest();
template <class T>
std::optional<T> parse_number(std::string_view text, T low = kLowest<T>, T high = kHighest<T>) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  // The comparison is false for NaN.
  const bool good = error == std::errc() && stop == end && value >= low && value <= high;
  return good ? std::optional(value) : std::nullopt;
}

// The first run of digits in a text, of a program or the system, as a number; 0 where there is
// none.
inline std::uint64_t first_number(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789";
  const std::size_t begin = std::min(text.find_first_of(kDigits), text.size());
  const std::size_t end = std::min(text.find_first_not_of(kDigits, begin), text.size());
  return parse_number<std::uint64_t>(text.substr(begin, end - begin)).value_or(0);
}

}  // namespace moegrad
