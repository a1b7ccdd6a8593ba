#include "lab/study_plan.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/error.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTrunk = "trunk";
constexpr int kMostSeeds = 1000;

bool can_be_folder(const std::string& name) {
  return !name.empty() && name.front() != '.' &&
         name.find_first_of("/ \t\n") == std::string::npos && is_utf8(name);
}

// A text between commas.
std::vector<std::string> comma_values(const std::string& text) {
  std::vector<std::string> values;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    values.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return values;
}

bool sets(const Variant& variant, std::string_view key) {
  return std::ranges::any_of(variant.settings, [&](const auto& s) { return s.first == key; });
}

// As many examples with another batch.
void keep_examples(TrainConfig& config, std::int64_t batch) {
  const auto scaled = [&](std::int64_t steps) {
    const double exact =
        static_cast<double>(steps) * static_cast<double>(batch) / static_cast<double>(config.batch);
    return steps == 0 ? 0 : std::max<std::int64_t>(1, std::llround(exact));
  };
  config.steps = scaled(config.steps);
  config.warmup = scaled(config.warmup);
  config.evaluate_every = scaled(config.evaluate_every);
}

void keep_short(TrainConfig& config, std::int64_t most) {
  config.steps = config.steps > 0 ? std::min(config.steps, most) : most;
  config.evaluate_every = (most + 1) / 2;
}

void require_names(const std::vector<Variant>& variants) {
  std::set<std::string> names;
  for (const Variant& v : variants) {
    if (names.insert(v.name).second) continue;
    fail("study", "'{}' is there twice. Give each a name of its own.", v.name);
  }
}

// Names of their own, and the same data for all methods.
void require_comparable(const StudyPlan& plan) {
  const auto of_data = [](const std::string& key) {
    return key == "seed" || key == "test_examples" ||
           std::ranges::any_of(train_fields(), [&](const TrainField& field) {
             return field.of_data && field.spec.name == key;
           });
  };
  require_names(plan.points);
  require_names(plan.methods);
  for (const Variant& method : plan.methods) {
    if (method.name == kTrunk && !plan.trunk.empty()) {
      fail("study", "the name '{}' is taken. Give each method one of its own.", method.name);
    }
    for (const auto& [key, value] : method.settings) {
      if (!of_data(key) && (key != "from" || plan.trunk.empty())) continue;
      fail(
          "study",
          "method {} sets '{}', which all have in common: their losses would be of different data. "
          "Leave it out, or give it to all with --set.",
          method.name, key);
    }
  }
}

}  // namespace

Variant read_variant(std::string_view text) {
  const std::size_t colon = text.find(':');
  Variant variant{.name = std::string(text.substr(0, colon)), .settings = {}};
  if (!can_be_folder(variant.name) || colon == std::string_view::npos) {
    fail("study", "'{}' has no name that a folder can have. Give NAME: key=value ...", text);
  }
  std::size_t begin = text.find_first_not_of(' ', colon + 1);
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      fail("study", "{}: '{}' is no key=value.", variant.name, word);
    }
    variant.settings.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    begin = text.find_first_not_of(' ', end);
  }
  TrainConfig trial;
  apply_settings(trial, variant.settings);
  return variant;
}

std::vector<Variant> grid_of(const std::vector<std::string>& texts) {
  std::vector<Variant> points = {{}};
  std::set<std::string> keys;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
      fail("study", "'{}' is no axis of a grid. Give key=value,value,...", text);
    }
    const std::string key = text.substr(0, equals);
    if (!keys.insert(key).second) fail("study", "the grid has '{}' twice. Give it once.", key);
    std::vector<Variant> more;
    for (const Variant& point : points) {
      for (const std::string& value : comma_values(text.substr(equals + 1))) {
        Variant next = point;
        next.name += (point.name.empty() ? "" : ",") + key + "=" + value;
        next.settings.emplace_back(key == "k" ? "active" : key, value);
        TrainConfig trial;
        apply_settings(trial, next.settings);
        if (!can_be_folder(next.name)) {
          fail("study", "'{}' can be no folder's name. Give such a point by --point.", next.name);
        }
        more.push_back(std::move(next));
      }
    }
    points = std::move(more);
  }
  require_names(points);
  return points;
}

std::string run_name(const Variant& point, const std::string& method, int seed) {
  return fmt::format("{}{}{}-s{}", point.name, point.name.empty() ? "" : ".", method, seed);
}

TrainConfig config_of(const StudyPlan& plan, const Variant& point, const Variant& method,
                      int seed) {
  TrainConfig config = plan.base;
  apply_settings(config, point.settings);
  if (sets(point, "batch") && !sets(point, "steps")) keep_examples(config, plan.base.batch);
  apply_settings(config, method.settings);
  if (plan.most_steps > 0) keep_short(config, plan.most_steps);
  config.seed = seed;
  return config;
}

std::vector<PlannedRun> trunks_of(const StudyPlan& plan) {
  std::vector<PlannedRun> runs;
  if (plan.trunk.empty()) return runs;
  for (int seed = 1; seed <= plan.seeds; ++seed) {
    for (const Variant& point : plan.points) {
      TrainConfig config = config_of(plan, point, plan.methods.front(), seed);
      apply_settings(config, plan.trunk);
      if (plan.most_steps > 0) keep_short(config, std::max<std::int64_t>(1, plan.most_steps / 2));
      runs.push_back({run_name(point, kTrunk, seed), config});
    }
  }
  return runs;
}

std::vector<PlannedRun> runs_of(const StudyPlan& plan, const fs::path& folder) {
  require_comparable(plan);
  StudyPlan branches = plan;
  if (!plan.trunk.empty()) branches.base.warmup = 0;
  std::vector<PlannedRun> runs;
  for (int seed = 1; seed <= plan.seeds; ++seed) {
    for (const Variant& point : plan.points) {
      for (const Variant& method : plan.methods) {
        TrainConfig config = config_of(branches, point, method, seed);
        if (!plan.trunk.empty()) {
          config.from = (folder / run_name(point, kTrunk, seed)).string();
          // Other examples than the trunk's first; where the seed draws the data themselves, the same
          // data, or the trunk had seen what is tested.
          if (!is_drawn(config.task)) config.seed = kMostSeeds + seed;
        }
        runs.push_back({run_name(point, method.name, seed), config});
      }
    }
  }
  return runs;
}

}  // namespace moegrad
