#include "lab/bias.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include <nlohmann/json.hpp>

#include "autograd/expectation.h"
#include "lab/bias_setting.h"
#include "moe/registry.h"
#include "tensor/threads.h"

namespace moegrad {
namespace {

using Numbers = std::vector<double>;

double dot(const Numbers& a, const Numbers& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
Numbers minus(Numbers a, const Numbers& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}
double norm(const Numbers& a) { return std::sqrt(dot(a, a)); }

Numbers all_of(const std::vector<Tensor>& tensors) {
  Numbers all;
  for (const Tensor& t : tensors) {
    const Numbers values = t.to_vector();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// The bias to the own expected loss is measured in passing where that is cheap.
bool measures_own(const BiasOptions& options, const Expectation& e, std::size_t elements) {
  if (options.own) return *options.own;
  return e.exact && e.outcomes * static_cast<std::int64_t>(elements) <= 2 * options.max_outcomes;
}

void add_draw(BiasRow& row, const BiasOptions& options, std::int64_t draw) {
  BiasSetting s(row.of, {options.seed, static_cast<std::uint64_t>(draw), 0}, options.device);
  ExpectationOptions of;
  of.device = options.device;
  of.max_outcomes = options.max_outcomes;
  of.samples = options.samples;
  of.rng = Rng{options.seed, 0x7061'7373'0000'0000U + static_cast<std::uint64_t>(draw), 0};
  of.bias = false;
  of.also = &s.also();
  const Program program = s.program();
  Expectation e = expectation(program, s.inputs(), of);
  const Numbers mean = all_of(e.gradient);
  const double n = static_cast<double>(options.draws);
  const bool own = measures_own(options, e, mean.size());
  if (own) {
    of.bias = true;
    e = expectation(program, s.inputs(), of);
  }
  row.gradient_of = s.by_logits() ? "logits" : "router parameters";
  row.evaluations += e.also[0] / n;
  row.weight_mse += e.also[1] / n;
  const Numbers& g = s.softmax_weights();
  if (g.empty()) row.weight_bias_l1 = std::nan("");
  for (std::size_t i = 0; i < g.size(); ++i)
    row.weight_bias_l1 += std::abs(e.also[2 + i] - g[i]) / n;
  row.gradient_variance += e.total_variance / n;
  const Numbers dense = all_of(s.dense_gradient());
  if (dense.empty()) {
    row.dense_bias = row.dense_mse = std::nan("");
  } else {
    const Numbers bias = minus(mean, dense);
    row.dense_bias += norm(bias) / n;
    row.dense_mse += (e.total_variance + dot(bias, bias)) / n;
  }
  if (norm(dense) > 0.0) {
    const double norms = norm(mean) * norm(dense);
    row.cosine += norms > 0.0 ? dot(mean, dense) / norms : 0.0;
    row.norm_ratio += norm(mean) / norm(dense);
    ++row.compared;
  }
  row.exact = row.exact && e.exact;
  row.outcomes = std::max(row.outcomes, e.outcomes);
  if (!e.exact) {
    row.bias_confidence += 1.96 * std::sqrt(e.total_variance / static_cast<double>(e.outcomes)) / n;
  }
  row.own_known = row.own_known && own && std::isfinite(e.bias) && std::isfinite(e.bias_error);
  if (row.own_known) {
    row.own_bias += e.bias / n;
    row.own_error += e.bias_error / n;
  }
}

}  // namespace

const std::vector<std::string>& bias_losses() {
  static const std::vector<std::string> names = {"linear", "quadratic", "cubic", "mlp"};
  return names;
}

std::string to_json(const BiasRow& r) {
  using nlohmann::ordered_json;
  ordered_json row = {{"router", r.of.router},
                      {"estimator", r.of.estimator},
                      {"experts", r.of.experts},
                      {"active", r.of.active},
                      {"scale", r.of.scale},
                      {"loss", r.of.loss},
                      {"device", name_of(r.device)},
                      {"gradient_of", r.gradient_of},
                      {"weight_bias_l1", r.weight_bias_l1},
                      {"weight_mse", r.weight_mse},
                      {"dense_bias", r.dense_bias},
                      {"gradient_variance", r.gradient_variance},
                      {"dense_mse", r.dense_mse},
                      {"cosine", r.cosine},
                      {"norm_ratio", r.norm_ratio},
                      {"evaluations", r.evaluations},
                      {"exact", r.exact},
                      {"outcomes", r.outcomes}};
  row["own_bias"] = r.own_known ? ordered_json(r.own_bias) : ordered_json(nullptr);
  row["own_bias_error"] = r.own_known ? ordered_json(r.own_error) : ordered_json(nullptr);
  if (!r.exact) row["dense_bias_confidence"] = r.bias_confidence;
  return row.dump();
}

double passes_of(double cases, const BiasOptions& options) {
  constexpr std::int64_t most = BiasOptions::kMost;
  if (options.draws < 1 || options.max_outcomes < 1 || options.samples < 2 ||
      options.draws > most || options.max_outcomes > most || options.samples > most) {
    fail("study", "{} draws, {} outcomes, {} samples. Give at least 1, 1 and 2, at most {}.",
         options.draws, options.max_outcomes, options.samples, most);
  }
  const std::int64_t each = std::max(options.max_outcomes, options.samples);
  const double passes = cases * static_cast<double>(options.draws) * static_cast<double>(each);
  if (passes > static_cast<double>(BiasOptions::kMostPasses)) {
    fail("study",
         "{} cases x {} draws x {} outcomes or samples are {:.3g} passes through a layer. They may "
         "be {} at most: name fewer cases, or lower --draws, --outcomes or --samples.",
         cases, options.draws, each, passes, BiasOptions::kMostPasses);
  }
  return passes;
}

BiasRow measure_bias(const BiasCase& of, const BiasOptions& options) {
  if (std::find(bias_losses().begin(), bias_losses().end(), of.loss) == bias_losses().end()) {
    fail("study", "there is no loss '{}'. Did you mean '{}'?", of.loss,
         nearest(of.loss, bias_losses()));
  }
  if (!(of.scale >= 0.0) || !std::isfinite(of.scale)) {
    fail("study", "the scale of the logits is {}. Give a number of at least 0.", of.scale);
  }
  passes_of(1.0, options);
  BiasRow row;
  row.of = of;
  row.device = options.device;
  for (std::int64_t draw = 0; draw < options.draws; ++draw) add_draw(row, options, draw);
  if (!row.own_known) row.own_bias = row.own_error = std::nan("");
  // 0 / 0 is NaN: undefined.
  row.cosine /= static_cast<double>(row.compared);
  row.norm_ratio /= static_cast<double>(row.compared);
  return row;
}

std::vector<std::pair<std::string, std::string>> bias_pairs() {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const RouterEntry& router : routers()) {
    if (router.traits.linear) pairs.emplace_back(router.name, "sparse");
  }
  for (const EstimatorEntry& estimator : estimators()) {
    if (estimator.name == "sparse" || estimator.routers.empty()) continue;
    pairs.emplace_back(estimator.routers.front(), estimator.name);
  }
  return pairs;
}

namespace {

std::vector<std::pair<std::string, std::string>> pairs_of(const BiasGrid& grid) {
  for (const std::string& name : grid.routers) router_entry(name);
  for (const std::string& name : grid.estimators) estimator_entry(name);
  if (grid.routers.empty() && grid.estimators.empty()) return bias_pairs();
  std::vector<std::pair<std::string, std::string>> pairs;
  if (grid.routers.empty()) {
    for (const std::string& estimator : grid.estimators) {
      const std::vector<std::string>& with = estimator_entry(estimator).routers;
      for (const std::string& router : with) pairs.emplace_back(router, estimator);
    }
    return pairs;
  }
  const std::vector<std::string> sparse = {"sparse"};
  for (const std::string& router : grid.routers) {
    for (const std::string& estimator : grid.estimators.empty() ? sparse : grid.estimators) {
      pairs.emplace_back(router, estimator);
    }
  }
  return pairs;
}

}  // namespace

std::vector<BiasCase> bias_cases(const BiasGrid& grid, const BiasOptions& options) {
  const auto pairs = pairs_of(grid);
  double count = 1.0;
  for (const std::size_t n : {pairs.size(), grid.experts.size(), grid.active.size(),
                              grid.scales.size(), grid.losses.size()}) {
    count *= static_cast<double>(n);
  }
  passes_of(count, options);
  std::vector<BiasCase> cases;
  for (const auto& [router, estimator] : pairs) {
    for (const std::int64_t experts : grid.experts) {
      for (const std::int64_t active : grid.active) {
        for (const double scale : grid.scales) {
          for (const std::string& loss : grid.losses) {
            cases.push_back({router, estimator, experts, active, scale, loss, grid.options});
          }
        }
      }
    }
  }
  return cases;
}

std::vector<BiasRow> study_bias(const std::vector<BiasCase>& cases, const BiasOptions& options,
                                const std::function<void(std::size_t)>& progress,
                                std::vector<std::string>& skipped) {
  passes_of(static_cast<double>(cases.size()), options);
  std::vector<std::optional<BiasRow>> rows(cases.size());
  std::vector<std::string> refused(cases.size());
  std::size_t done = 0;
  std::mutex mutex;
  const auto measure = [&](std::int64_t piece, std::int64_t) {
    const auto i = static_cast<std::size_t>(piece);
    try {
      rows[i] = measure_bias(cases[i], options);
    } catch (const Interruption&) {
      throw;
    } catch (const std::exception& e) {
      refused[i] = e.what();
    }
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done);
  };
  const auto count = static_cast<std::int64_t>(cases.size());
  if (options.device == Device::cpu) {
    parallel_on_host(count, 1, measure);
  } else {  // it has one stream
    for (std::int64_t i = 0; i < count; ++i) measure(i, i + 1);
  }
  std::vector<BiasRow> out;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (rows[i]) {
      out.push_back(std::move(*rows[i]));
    } else if (std::find(skipped.begin(), skipped.end(), refused[i]) == skipped.end()) {
      skipped.push_back(refused[i]);
    }
  }
  return out;
}

}  // namespace moegrad
