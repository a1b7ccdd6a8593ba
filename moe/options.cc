#include "moe/options.h"

#include <algorithm>
#include <cmath>

#include "tensor/edit_distance.h"
#include "tensor/error.h"
#include "tensor/parse.h"

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

Options::Options(std::string owner, std::vector<OptionSpec> specs)
    : owner_(std::move(owner)), specs_(std::move(specs)) {
  for (const OptionSpec& spec : specs_) values_[spec.name] = spec.default_value;
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
  const auto refuse = [&](std::string_view wanted) {
    fail("option", "'{}' of {} is '{}'. Give {}.", name, owner_, value, wanted);
  };
  switch (spec->kind) {
    case OptionSpec::Kind::flag:
      if (value != "true" && value != "false") refuse("true or false");
      break;
    case OptionSpec::Kind::choice:
      if (std::find(spec->choices.begin(), spec->choices.end(), value) == spec->choices.end()) {
        refuse(fmt::format("one of {}", fmt::join(spec->choices, ", ")));
      }
      break;
    default: {
      const bool whole = spec->kind == OptionSpec::Kind::integer;
      std::optional<double> number;
      if (whole) {
        if (const auto n = parse_number<std::int64_t>(value)) number = static_cast<double>(*n);
      } else {
        number = parse_number<double>(value);
      }
      if (!number || !std::isfinite(*number) || *number < spec->lowest || *number > spec->highest) {
        refuse(fmt::format("{} from {} to {}", whole ? "a whole number" : "a number", spec->lowest,
                           spec->highest));
      }
    }
  }
  values_[name] = value;
}

const std::string& Options::text(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) fail("option", "{} declares no option '{}'.", owner_, name);
  return found->second;
}

// A value that was set has been checked; a default may be wrong where it was declared.
template <class T>
T Options::parsed(std::string_view name) const {
  if (const auto value = parse_number<T>(text(name))) return *value;
  fail("option", "the default of '{}' of {} is '{}'. Declare a number.", name, owner_, text(name));
}
double Options::number(std::string_view name) const { return parsed<double>(name); }
std::int64_t Options::integer(std::string_view name) const { return parsed<std::int64_t>(name); }
bool Options::flag(std::string_view name) const { return text(name) == "true"; }
const std::string& Options::choice(std::string_view name) const { return text(name); }

}  // namespace moegrad
