// Which values of its options a router or an estimator is checked at.

#include <algorithm>
#include <cmath>

#include "moe/checks/check.h"
#include "tensor/parse.h"

namespace moegrad {
namespace {

constexpr double kWalked = 5;  // values of an integer

bool is_among(const std::string& name, const std::vector<std::string>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_numeric(const OptionSpec& spec) {
  return spec.kind == OptionSpec::Kind::number || spec.kind == OptionSpec::Kind::integer;
}

// Of a number or integer without examples; `loss`: a coefficient that is 0 by default is tried too.
std::vector<std::string> values_in_range(const OptionSpec& spec, bool loss) {
  const double start = parse_number<double>(spec.default_value).value_or(0.0);
  std::vector<double> candidates;
  if (spec.kind == OptionSpec::Kind::integer) {
    for (double i = 0; i < kWalked && std::isfinite(spec.lowest); ++i) {
      candidates.push_back(spec.lowest + i);
    }
  } else if (start != 0.0) {
    candidates = {2.0 * start, 0.5 * start};
  } else if (loss) {
    candidates = {0.5};
  } else {
    candidates = {spec.lowest, spec.highest};
  }
  std::vector<std::string> values;
  for (const double v : candidates) {
    const bool permitted = std::isfinite(v) && v >= spec.lowest && v <= spec.highest;
    if (permitted && v != start) values.push_back(fmt::format("{}", v));
  }
  return values;
}

std::vector<std::string> values_of(const OptionSpec& spec, const std::vector<std::string>& losses) {
  if (spec.kind == OptionSpec::Kind::flag) return {"true", "false"};
  if (spec.kind == OptionSpec::Kind::choice) return spec.choices;
  if (!spec.examples.empty()) return spec.examples;
  return values_in_range(spec, is_among(spec.name, losses));
}

}  // namespace

bool is_refused(const LayerConfig& config, std::int64_t tokens) {
  try {
    decisions_of(random_fixture(config, tokens, true));
    return false;
  } catch (const Error&) {
    return true;
  }
}

std::vector<OptionMap> variants(const std::vector<OptionSpec>& specs,
                                const std::vector<std::string>& losses, std::int64_t tokens,
                                const std::function<LayerConfig(const OptionMap&)>& config,
                                CheckRow& row) {
  std::vector<OptionMap> all = {{}};
  OptionMap flags;
  for (const OptionSpec& spec : specs) {
    if (spec.kind == OptionSpec::Kind::flag) {
      flags[spec.name] = spec.default_value == "true" ? "false" : "true";
    }
    for (const std::string& value : values_of(spec, losses)) {
      if (value != spec.default_value) all.push_back({{spec.name, value}});
    }
  }
  if (flags.size() > 1) all.push_back(flags);
  // What has no examples may not go with the defaults of the others, but with a value of another.
  const bool works = !is_refused(config({}), tokens);  // else the error is told by the check
  std::vector<OptionMap> permitted = {{}};
  for (const OptionMap& own : all) {
    if (own.empty()) continue;
    const auto spec = std::find_if(specs.begin(), specs.end(),
                                   [&](const OptionSpec& s) { return own.contains(s.name); });
    const bool stated = own.size() == 1 && (!is_numeric(*spec) || !spec->examples.empty());
    if (stated || !works || !is_refused(config(own), tokens)) {
      permitted.push_back(own);
      continue;
    }
    for (const OptionMap& other : all) {
      OptionMap both = own;
      both.insert(other.begin(), other.end());
      if (both == own || is_refused(config(both), tokens)) continue;
      permitted.push_back(both);
      break;
    }
  }
  for (const OptionSpec& spec : specs) {
    const bool varied = std::any_of(permitted.begin(), permitted.end(), [&](const OptionMap& o) {
      return o.contains(spec.name) && o.at(spec.name) != spec.default_value;
    });
    row.note(
        varied || !is_numeric(spec),
        fmt::format("option {} has no examples. Give values that the checks can try.", spec.name));
  }
  return permitted;
}

}  // namespace moegrad
