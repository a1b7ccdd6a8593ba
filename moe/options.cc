#include "moe/options.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "tensor/edit_distance.h"
#include "tensor/error.h"

namespace moegrad {
std::string nearest(std::string_view name, std::span<const std::string> names) {
  std::string best;
  std::size_t least = std::string::npos;
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

OptionSpec OptionSpec::initially(std::string value) && {
  default_value = std::move(value);
  return std::move(*this);
}
OptionSpec OptionSpec::from(double low, double high) && {
  lowest = low;
  highest = high;
  return std::move(*this);
}
OptionSpec OptionSpec::tried(std::vector<std::string> values) && {
  examples = std::move(values);
  return std::move(*this);
}

void OptionSpec::check(std::string_view owner, const std::string& value) const {
  const auto refuse = [&](std::string_view wanted) {
    fail("option", "'{}' of {} is '{}'. Give {}.", name, owner, value, wanted);
  };
  switch (kind) {
    case Kind::text:
      return;
    case Kind::flag:
      if (value != "true" && value != "false") refuse("true or false");
      return;
    case Kind::choice:
      if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
        refuse(fmt::format("one of {}", fmt::join(choices, ", ")));
      }
      return;
    case Kind::number:
    case Kind::integer:
      break;
  }
  const bool whole = kind == Kind::integer;
  std::optional<double> number = parse_number<double>(value);
  if (whole && !parse_number<std::int64_t>(value)) number.reset();
  if (!number || !std::isfinite(*number) || *number < lowest || *number > highest) {
    refuse(fmt::format("{} from {} to {}", whole ? "a whole number" : "a number", lowest, highest));
  }
}

namespace option {
using Kind = OptionSpec::Kind;

OptionSpec number(std::string name, std::string help) {
  return {std::move(name), Kind::number, std::move(help)};
}
OptionSpec integer(std::string name, std::string help) {
  return {std::move(name), Kind::integer, std::move(help)};
}
OptionSpec flag(std::string name, std::string help) {
  return {std::move(name), Kind::flag, std::move(help), "false"};
}
OptionSpec choice(std::string name, std::vector<std::string> choices, std::string help) {
  OptionSpec spec{std::move(name), Kind::choice, std::move(help), choices.front()};
  spec.choices = std::move(choices);
  return spec;
}
OptionSpec text(std::string name, std::string help) {
  return {std::move(name), Kind::text, std::move(help)};
}
}  // namespace option

Options::Options(std::string owner, std::vector<OptionSpec> specs)
    : owner_(std::move(owner)), specs_(std::move(specs)) {
  for (const OptionSpec& spec : specs_) {
    spec.check(owner_, spec.default_value);
    values_[spec.name] = spec.default_value;
  }
}

bool Options::knows(std::string_view name) const { return values_.find(name) != values_.end(); }

void Options::set(const std::string& name, const std::string& value) {
  const auto spec = std::find_if(specs_.begin(), specs_.end(),
                                 [&](const OptionSpec& s) { return s.name == name; });
  if (spec == specs_.end()) {
    std::vector<std::string> names;
    for (const OptionSpec& s : specs_) names.push_back(s.name);
    if (names.empty())
      fail("option", "{} has no option '{}', and no others. Leave it out.", owner_, name);
    fail("option", "{} has no option '{}'. Did you mean '{}'?", owner_, name, nearest(name, names));
  }
  spec->check(owner_, value);
  values_[name] = value;
}

const std::string& Options::text(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) fail("option", "{} declares no option '{}'.", owner_, name);
  return found->second;
}

double Options::number(std::string_view name) const { return parse_option<double>(text(name)); }
std::int64_t Options::integer(std::string_view name) const {
  return parse_option<std::int64_t>(text(name));
}
bool Options::flag(std::string_view name) const { return parse_option<bool>(text(name)); }
const std::string& Options::choice(std::string_view name) const { return text(name); }

}  // namespace moegrad
