#include "lab/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

std::string run_name(const std::string& method, int seed) {
  return fmt::format("{}-s{}", method, seed);
}

TrainConfig config_of(const ComparePlan& plan, const Method& method, int seed) {
  TrainConfig config = plan.base;
  config.seed = seed;
  apply_settings(config, method.settings);
  return config;
}

double mean_of(const std::vector<double>& numbers) {
  double sum = 0.0;
  for (const double n : numbers) sum += n;
  return numbers.empty() ? kNotMeasured : sum / static_cast<double>(numbers.size());
}

// The largest by the mean.
double imbalance(const Json& load) {
  const auto numbers = load.get<std::vector<double>>();
  return numbers.empty() ? kNotMeasured : *std::ranges::max_element(numbers) / mean_of(numbers);
}

std::vector<Json> lines_of(const fs::path& file) {
  std::vector<Json> lines;
  const std::string all = path_exists(file) ? read_file(file) : "";
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    Json line = Json::parse(all.substr(begin, end - begin), nullptr, false);
    if (line.is_object()) lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

RunFigures mean_of(const std::vector<RunFigures>& runs) {
  RunFigures mean;
  for (const auto figure : {&RunFigures::loss, &RunFigures::load, &RunFigures::gradient_norm,
                            &RunFigures::step_seconds}) {
    std::vector<double> numbers;
    for (const RunFigures& run : runs) numbers.push_back(run.*figure);
    mean.*figure = mean_of(numbers);
  }
  return mean;
}

Json object_of(const RunFigures& f) {
  return {{"loss", f.loss},
          {"load", f.load},
          {"gradient_norm", f.gradient_norm},
          {"step_seconds", f.step_seconds}};
}

}  // namespace

Method read_method(std::string_view text) {
  const std::size_t colon = text.find(':');
  Method method{.name = std::string(text.substr(0, colon)), .settings = {}};
  const bool plain = !method.name.empty() && method.name.front() != '.' &&
                     method.name.find_first_of("/ \t\n") == std::string::npos;
  if (!plain || colon == std::string_view::npos) {
    fail("study", "the method '{}' has no name that a folder can have. Give NAME: key=value ...",
         text);
  }
  std::size_t begin = text.find_first_not_of(' ', colon + 1);
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      fail("study", "method {}: '{}' is no key=value.", method.name, word);
    }
    method.settings.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    begin = text.find_first_not_of(' ', end);
  }
  TrainConfig trial;
  apply_settings(trial, method.settings);
  return method;
}

std::vector<Method> usual_methods(const TrainConfig& base) {
  std::vector<Method> all = {{"top-k", {}}};
  const auto add = [&](const char* name, Settings settings) {
    all.push_back({name, std::move(settings)});
  };
  for (std::int64_t k = base.active + 1; k <= std::min(base.active + 2, base.experts); ++k) {
    all.push_back({fmt::format("top-{}", k), {{"active", std::to_string(k)}}});
  }
  add("all", {{"router", "softmax"}});
  add("ste-dense", {{"estimator", "ste-dense"}});
  add("ste-dense-router", {{"estimator", "ste-dense-router"}});
  add("expert-group", {{"estimator", "expert-group"}});
  add("expert-group-router", {{"router_gradient", "expert-group"}});
  add("default-ema", {{"estimator", "default-ema"}, {"options.forward", "false"}});
  add("sparsemixer-v2", {{"router", "sparsemixer-v2"}, {"estimator", "sparsemixer-v2"}});
  add("loss-free", {{"router", "loss-free"}});
  add("moesart", {{"router", "moesart"}});
  return all;
}

std::vector<PlannedRun> trunks_of(const ComparePlan& plan) {
  std::vector<PlannedRun> runs;
  for (int seed = 1; plan.trunk > 0 && seed <= plan.seeds; ++seed) {
    TrainConfig config = config_of(plan, plan.methods.front(), seed);
    config.steps = plan.trunk;
    config.schedule = "constant";
    runs.push_back({run_name("trunk", seed), config});
  }
  return runs;
}

std::vector<PlannedRun> runs_of(const ComparePlan& plan, const fs::path& folder) {
  std::vector<PlannedRun> runs;
  for (int seed = 1; seed <= plan.seeds; ++seed) {
    for (const Method& method : plan.methods) {
      TrainConfig config = config_of(plan, method, seed);
      if (plan.trunk > 0) {
        config.from = (folder / run_name("trunk", seed)).string();
        config.warmup = 0;
        config.seed = seed + plan.seeds;  // other data than the trunk's first
      }
      runs.push_back({run_name(method.name, seed), config});
    }
  }
  return runs;
}

RunFigures figures_of(const fs::path& path) {
  const RunFolder run(path);
  RunFigures figures{kNotMeasured, kNotMeasured, kNotMeasured, kNotMeasured};
  if (!path_exists(run.result())) return figures;
  std::vector<double> losses;
  std::vector<double> norms;
  for (const Json& line : lines_of(run.metrics())) {
    const auto number = [&](const char* key) {
      const auto found = line.find(key);
      return found != line.end() && found->is_number() ? found->get<double>() : kNotMeasured;
    };
    if (line.value("kind", "") == "step") {
      norms.push_back(number("gradient_norm"));
    } else {
      losses.push_back(number("test_loss"));
    }
  }
  const std::size_t last = std::min(losses.size(), std::max<std::size_t>(1, losses.size() / 10));
  figures.loss =
      mean_of(std::vector<double>(losses.end() - static_cast<std::ptrdiff_t>(last), losses.end()));
  figures.gradient_norm = mean_of(norms);
  const Json result = Json::parse(read_file(run.result()), nullptr, false);
  if (!result.is_object()) return figures;
  figures.step_seconds =
      result.value("train_seconds", kNotMeasured) / result.value("steps", kNotMeasured);
  if (result.contains("layer_loads")) {
    std::vector<double> all;
    for (const Json& load : result["layer_loads"]) all.push_back(imbalance(load));
    figures.load = mean_of(all);
  } else if (result.contains("expert_load")) {
    figures.load = imbalance(result["expert_load"]);
  }
  return figures;
}

std::vector<CompareRow> compare(const ComparePlan& plan, const fs::path& folder, double margin) {
  std::vector<CompareRow> rows;
  for (const Method& method : plan.methods) {
    CompareRow& row = rows.emplace_back();
    row.method = method.name;
    for (int seed = 1; seed <= plan.seeds; ++seed) {
      row.runs.push_back(figures_of(folder / run_name(method.name, seed)));
    }
    row.mean = mean_of(row.runs);
  }
  std::vector<double> different;
  std::vector<double> equivalent;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    // Seeds of which both runs have ended.
    std::vector<double> a;
    std::vector<double> b;
    for (std::size_t s = 0; s < rows[i].runs.size(); ++s) {
      const double mine = rows[i].runs[s].loss;
      const double other = rows[0].runs[s].loss;
      if (std::isnan(mine) || std::isnan(other)) continue;
      a.push_back(mine);
      b.push_back(other);
    }
    rows[i].difference = paired_difference(a, b, margin);
    different.push_back(rows[i].difference.p_different);
    equivalent.push_back(rows[i].difference.p_equivalent);
  }
  different = holm(different);
  equivalent = holm(equivalent);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    rows[i].p_different = different[i - 1];
    rows[i].p_equivalent = equivalent[i - 1];
    rows[i].verdict = compared(rows[i].difference, different[i - 1], equivalent[i - 1]);
  }
  return rows;
}

std::string to_json(const CompareRow& row) {
  Json runs = Json::array();
  for (const RunFigures& run : row.runs) runs.push_back(object_of(run));
  const PairedDifference& d = row.difference;
  return Json{{"method", row.method},
              {"mean", object_of(row.mean)},
              {"pairs", d.pairs},
              {"difference", d.mean},
              {"error", d.error},
              {"low", d.low},
              {"high", d.high},
              {"p_different", row.p_different},
              {"p_equivalent", row.p_equivalent},
              {"verdict", name_of(row.verdict)},
              {"runs", runs}}
      .dump();
}

}  // namespace moegrad
