#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tensor/parse.h"

namespace moegrad {

// An option of a router, an estimator or the layer, `--option name=value`, or a setting of a run.
//   option::number("balance", "coefficient of a loss").initially("0.01").from(0, 1).tried({"0.7"})
struct OptionSpec {
  enum class Kind { number, integer, flag, choice, text };
  std::string name;
  Kind kind = Kind::number;
  std::string help;
  std::string default_value = {};
  double lowest = -std::numeric_limits<double>::infinity();  // of a number or integer, inclusive
  double highest = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices = {};
  // Values of a number that the checks try besides the default.
  std::vector<std::string> examples = {};

  OptionSpec initially(std::string value) &&;
  OptionSpec from(double low, double high) &&;
  OptionSpec tried(std::vector<std::string> values) &&;

  // An Error for a value of the wrong kind or out of range. `owner` is named in it: "router top-k".
  void check(std::string_view owner, const std::string& value) const;
};

namespace option {
OptionSpec number(std::string name, std::string help);
OptionSpec integer(std::string name, std::string help);
OptionSpec flag(std::string name, std::string help);  // false by default
// The first by default.
OptionSpec choice(std::string name, std::vector<std::string> choices, std::string help);
OptionSpec text(std::string name, std::string help);
}  // namespace option

// The value of a text that was checked: a number, an integer, a flag, a choice or text.
template <class T>
T parse_option(const std::string& text) {
  if constexpr (std::is_same_v<T, std::string>) {
    return text;
  } else if constexpr (std::is_same_v<T, bool>) {
    return text == "true";
  } else {
    return parse_number<T>(text).value();
  }
}

// The name of the list that is nearest to a misspelt one (edit distance); empty for no names.
std::string nearest(std::string_view name, std::span<const std::string> names);

// Values for a list of options, each checked against its spec when it is set.
class Options {
 public:
  Options() = default;
  // Defaults everywhere. `owner` is named in errors: "router top-k".
  Options(std::string owner, std::vector<OptionSpec> specs);

  // An Error for an unknown name (naming the nearest), a value of the wrong kind or out of range.
  void set(const std::string& name, const std::string& value);
  bool knows(std::string_view name) const;

  double number(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  bool flag(std::string_view name) const;
  const std::string& choice(std::string_view name) const;

  const std::vector<OptionSpec>& specs() const { return specs_; }
  // As text, by name.
  const std::map<std::string, std::string, std::less<>>& values() const { return values_; }

 private:
  const std::string& text(std::string_view name) const;

  std::string owner_;
  std::vector<OptionSpec> specs_;
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace moegrad
