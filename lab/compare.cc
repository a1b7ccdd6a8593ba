#include "lab/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "lab/cost.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr double kNoGap = std::numeric_limits<double>::quiet_NaN();

Json figures_object(const RunFigures& figures) {
  Json object = Json::object();
  for (const NamedFigure& f : run_figures()) object[f.name] = figures.*f.member;
  return object;
}

// a - b - (c - d) of the seeds of which all have ended.
PairedDifference change_of(const CompareRow& mine, const CompareRow& first_method,
                           const CompareRow& there, const CompareRow& first_there, double margin) {
  std::vector<double> here;
  std::vector<double> other;
  for (std::size_t s = 0; s < mine.runs.size(); ++s) {
    const double a = mine.runs[s].loss - first_method.runs[s].loss;
    const double b = there.runs[s].loss - first_there.runs[s].loss;
    if (std::isnan(a) || std::isnan(b)) continue;
    here.push_back(a);
    other.push_back(b);
  }
  return paired_difference(here, other, margin);
}

}  // namespace

std::vector<Variant> usual_methods(const TrainConfig& base) {
  std::vector<Variant> all = {{"top-k", {}}};
  const auto add = [&](const std::string& name, Settings settings) {
    all.push_back({name, std::move(settings)});
  };
  for (std::int64_t k = base.active + 1; k <= std::min(base.active + 2, base.experts); ++k) {
    add(fmt::format("top-{}", k), {{"active", std::to_string(k)}});
  }
  add("all", {{"router", "softmax"}, {"aux", "-1"}});
  add("ste-dense", {{"estimator", "ste-dense"}});
  add("ste-dense-router", {{"estimator", "ste-dense-router"}});
  add("ste-dense-norms", {{"norms_of", "ste-dense"}});
  add("ste-probe", {{"estimator", "ste-probe"}});
  add("expert-group", {{"estimator", "expert-group"}});
  add("expert-group-router", {{"router_gradient", "expert-group"}});
  add("expert-group-experts", {{"expert_gradient", "expert-group"}});
  add("default-ema", {{"estimator", "default-ema"}, {"options.forward", "false"}});
  const auto add_router = [&](const char* name, Settings more = {}) {
    more.insert(more.begin(), {{"router", name}, {"aux", "-1"}});
    add(name, std::move(more));
  };
  add_router("sparsemixer-v2", {{"estimator", "sparsemixer-v2"}});
  all.push_back(all.back());
  all.back().name += "-group";
  all.back().settings.emplace_back("expert_gradient", "expert-group");
  add_router("loss-free");
  add_router("moesart");
  return all;
}

std::vector<Variant> with_equal_operations(const TrainConfig& base,
                                           const std::vector<Variant>& methods, const Task& task) {
  const auto config_with = [&](const Variant& method) {
    TrainConfig config = base;
    apply_settings(config, method.settings);
    return config;
  };
  const double least = operations_of_step(config_with(methods.front()), task.shape());
  std::vector<Variant> all;
  for (const Variant& method : methods) {
    all.push_back(method);
    const TrainConfig config = config_with(method);
    const double ratio = least / operations_of_step(config, task.shape());
    const auto steps = static_cast<double>(steps_of(config, task));
    if (ratio > 0.995) continue;
    Variant& less = all.emplace_back(method);
    less.name += "@ops";
    less.settings.emplace_back("steps",
                               fmt::format("{}", std::max(1LL, std::llround(steps * ratio))));
  }
  return all;
}

PairedDifference difference_of_losses(const std::vector<RunFigures>& a,
                                      const std::vector<RunFigures>& b, double margin) {
  const auto losses = [](const std::vector<RunFigures>& runs) {
    std::vector<double> all;
    for (const RunFigures& run : runs) all.push_back(run.loss);
    return all;
  };
  return difference_of_ended(losses(a), losses(b), margin);
}

std::vector<Judged> judged(const std::vector<PairedDifference>& differences) {
  const std::size_t n = differences.size();
  std::vector<double> p(2 * n);
  for (std::size_t i = 0; i < n; ++i) {
    p[i] = differences[i].p_different;
    p[n + i] = differences[i].p_equivalent;
  }
  p = holm(p, n);
  std::vector<Judged> all;
  for (std::size_t i = 0; i < n; ++i) {
    all.push_back({differences[i], p[i], p[n + i], compared(differences[i], p[i], p[n + i])});
  }
  return all;
}

std::vector<CompareRow> compare(const StudyPlan& plan, const fs::path& folder, double margin) {
  std::vector<CompareRow> rows;
  const std::size_t methods = plan.methods.size();
  for (const Variant& point : plan.points) {
    for (const Variant& method : plan.methods) {
      CompareRow& row = rows.emplace_back();
      row.point = point.name;
      row.method = method.name;
      for (int seed = 1; seed <= plan.seeds; ++seed) {
        row.runs.push_back(figures_of(folder / run_name(point, method.name, seed)));
      }
      row.mean = mean_of(row.runs);
    }
  }
  std::vector<std::size_t> places;
  std::vector<PairedDifference> differences;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CompareRow& row = rows[i];
    const std::size_t method = i % methods;
    const CompareRow* const here = &rows[i - method];
    row.gap = kNoGap;
    if (method == 0) continue;
    row.difference = difference_of_losses(row.runs, here[0].runs, margin);
    if (i >= methods) {
      row.change = change_of(row, here[0], rows[method], rows[0], margin);
    }
    places.push_back(i);
    differences.push_back(row.difference);
  }
  const std::vector<Judged> all = judged(differences);
  for (std::size_t j = 0; j < places.size(); ++j) {
    CompareRow& row = rows[places[j]];
    row.p_different = all[j].p_different;
    row.p_equivalent = all[j].p_equivalent;
    row.verdict = all[j].verdict;
  }
  const auto whole = std::ranges::find(plan.methods, "all", &Variant::name);
  if (whole == plan.methods.end()) return rows;
  for (const std::size_t i : places) {
    const auto dense = static_cast<std::size_t>(whole - plan.methods.begin());
    const PairedDifference& gap = rows[i - i % methods + dense].difference;
    if (gap.high < 0.0) rows[i].gap = rows[i].difference.mean / gap.mean;
  }
  return rows;
}

std::string verdict_text(const PairedDifference& difference, Finding verdict) {
  return difference.pairs == 0 ? "-" : std::string(name_of(verdict));
}

std::string to_json(const CompareRow& row) {
  Json runs = Json::array();
  for (const RunFigures& run : row.runs) runs.push_back(figures_object(run));
  const PairedDifference& d = row.difference;
  Json object = {{"method", row.method},
                 {"mean", figures_object(row.mean)},
                 {"pairs", d.pairs},
                 {"difference", d.mean},
                 {"error", d.error},
                 {"low", d.low},
                 {"high", d.high},
                 {"p_different", row.p_different},
                 {"p_equivalent", row.p_equivalent},
                 {"verdict", verdict_text(d, row.verdict)},
                 {"gap", row.gap},
                 {"runs", runs}};
  if (!row.point.empty()) {
    object["point"] = row.point;
    object["change"] = {{"pairs", row.change.pairs},
                        {"mean", row.change.mean},
                        {"error", row.change.error},
                        {"low", row.change.low},
                        {"high", row.change.high}};
  }
  return object.dump();
}

}  // namespace moegrad
