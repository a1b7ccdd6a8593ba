#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moegrad {

// An option of a router, an estimator or the layer: `--option name=value`.
struct OptionSpec {
  enum class Kind { number, integer, flag, choice };
  std::string name;
  Kind kind = Kind::number;
  std::string default_value;
  std::string help;
  double lowest = -std::numeric_limits<double>::infinity();  // of a number or integer, inclusive
  double highest = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices = {};
  // Values of a number that the checks try besides the default.
  std::vector<std::string> examples = {};
};

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
  template <class T>
  T parsed(std::string_view name) const;

  std::string owner_;
  std::vector<OptionSpec> specs_;
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace moegrad
