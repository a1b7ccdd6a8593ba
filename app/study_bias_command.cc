#include <cmath>
#include <cstdio>
#include <memory>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "app/commands.h"
#include "app/study_report.h"
#include "app/table.h"
#include "lab/bias.h"
#include "lab/report.h"
#include "moe/registry.h"

namespace moegrad {
namespace {

using nlohmann::ordered_json;

struct BiasArguments {
  BiasGrid grid;
  std::vector<std::string> options;
  BiasOptions study;
  std::string out = "runs/bias";
  JsonOutput json;
};

// Below the table and in --help.
constexpr std::string_view kBiasLegend =
    "E[G] is the mean of the router gradient over all draws and noise; what it is compared with:\n"
    "  bias to the dense layer     |E[G] - G*|, G* of the softmax mixture of all experts with the "
    "same\n"
    "                              logits; mse, cosine and norm ratio to dense are to that G*, "
    "too.\n"
    "                              A layer that runs k experts has another loss: unbiased for its "
    "own\n"
    "                              loss (reinforce), an estimator can be far from G*.\n"
    "  bias to its own expected loss\n"
    "                              |E[G] - d E[loss]| of the very layer: 0 is the textbook's "
    "unbiased.\n"
    "                              < e: not distinguishable from 0, as the reference is known to "
    "e;\n"
    "                              -: not measured (--own) or without a reference (at a kink).\n"
    "  weight bias, mse to softmax |E[w] - g|_1 and E |w - g|^2 for the weights w and the softmax "
    "g.\n"
    "  gradient of                 logits of a token; where they are not x W, the router's "
    "parameters.\n"
    "  variance                    E |G - E[G]|^2. +-: 95 %, where outcomes are sampled, not "
    "enumerated.";

std::string own_bias_text(const BiasRow& r) {
  if (!r.own_known) return "-";
  if (r.own_biased()) return fmt::format("{:.1e}", r.own_bias);
  if (r.own_error == 0.0) return "0";
  return fmt::format("< {:.0e}", std::pow(10.0, std::ceil(std::log10(r.own_error))));
}

Table table_of(const std::vector<BiasRow>& rows) {
  Table table;
  table.add({"router", "estimator", "E", "k", "scale", "loss", "gradient of",
             "weight bias to softmax", "weight mse to softmax", "bias to the dense layer",
             "bias to its own expected loss", "variance", "mse to dense", "cosine to dense",
             "norm ratio to dense", "experts run", "outcomes"});
  for (const BiasRow& r : rows) {
    const std::string bias = r.exact || std::isnan(r.dense_bias)
                                 ? cell(r.dense_bias, 4)
                                 : fmt::format("{:.3f}+-{:.3f}", r.dense_bias, r.bias_confidence);
    table.add({r.of.router, r.of.estimator, fmt::format("{}", r.of.experts),
               fmt::format("{}", r.of.active), fmt::format("{:g}", r.of.scale), r.of.loss,
               r.gradient_of, cell(r.weight_bias_l1, 4), cell(r.weight_mse, 4), bias,
               own_bias_text(r), cell(r.gradient_variance, 4), cell(r.dense_mse, 4),
               cell(r.cosine, 3), cell(r.norm_ratio, 3), cell(r.evaluations, 1),
               fmt::format("{}{}", r.outcomes, r.exact ? "" : " sampled")});
  }
  return table;
}

// Of each pair, the means over its rows that have a value.
std::vector<Chart> bias_charts(const std::vector<BiasRow>& rows) {
  Chart direction{.title = "Expected router gradient against the dense layer's, mean over all rows",
                  .axis = "cosine, norm ratio",
                  .series = {{"cosine", {}}, {"norm ratio", {}}}};
  Chart error{.title = "Bias and spread of the router gradient, mean over all rows",
              .axis = "norm",
              .series = {{"bias to the dense layer", {}},
                         {"bias to its own expected loss", {}},
                         {"standard deviation", {}}}};
  std::vector<double> counts;  // of the series' values at the last label
  const auto add = [](Series& s, double value, double& count) {
    if (std::isnan(value)) return;
    count += 1.0;
    double& mean = s.values.back();
    mean = count == 1.0 ? value : mean + (value - mean) / count;
  };
  for (const BiasRow& r : rows) {
    const std::string label = r.of.router + " / " + r.of.estimator;
    if (direction.labels.empty() || direction.labels.back() != label) {
      direction.labels.push_back(label);
      counts.assign(5, 0.0);
      for (Chart* chart : {&direction, &error}) {
        for (Series& s : chart->series) s.values.push_back(std::nan(""));
      }
    }
    add(direction.series[0], r.cosine, counts[0]);
    add(direction.series[1], r.norm_ratio, counts[1]);
    add(error.series[0], r.dense_bias, counts[2]);
    add(error.series[1], r.own_bias, counts[3]);
    add(error.series[2], std::sqrt(r.gradient_variance), counts[4]);
  }
  error.labels = direction.labels;
  return {direction, error};
}

// Ten seconds. Off a terminal, longer work is announced and each tenth of it reported.
constexpr double kManyPasses = 1e6;

int run_bias(BiasArguments& a) {
  a.grid.options = option_map("study", a.options);
  const std::vector<BiasCase> cases = bias_cases(a.grid, a.study);
  const auto count = static_cast<double>(cases.size());
  const double passes = passes_of(count, a.study);
  const Report report(a.out, a.json);
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  std::size_t tenths = 0;
  if (!terminal && passes >= kManyPasses) {
    put(stderr, "{} cells, of at most {:.3g} passes through a layer each\n", cases.size(),
        passes / count);
  }
  std::vector<std::string> skipped;
  const std::vector<BiasRow> rows = study_bias(
      cases, a.study,
      [&](std::size_t done) {
        if (terminal) {
          put(stderr, "\r{} of {} cells", done, cases.size());
        } else if (passes >= kManyPasses && 10 * done / cases.size() > tenths) {
          tenths = 10 * done / cases.size();
          put(stderr, "{} of {} cells\n", done, cases.size());
        }
      },
      skipped);
  if (terminal) put(stderr, "\r{:40}\r", "");
  if (rows.empty()) fail("study", "nothing to measure: {}", skipped.empty() ? "" : skipped.front());
  ordered_json list = ordered_json::array();
  for (const BiasRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, bias_charts(rows), {table_of(rows)}, a.study.device, kBiasLegend);
  for (const std::string& reason : skipped) put(stderr, "left out: {}\n", reason);
  return kOk;
}

}  // namespace

void add_study_bias(CLI::App& study, Global& global) {
  const auto a = std::make_shared<BiasArguments>();
  CLI::App& command = add_command(
      study, "bias",
      "Bias and variance of router gradients and combine weights: exact by enumeration, or Monte "
      "Carlo with bounds.\n\nThe columns: " +
          std::string(kBiasLegend),
      "moegrad study bias\n  moegrad study bias --routers moesart,top-k --experts 8 --active 2 "
      "--json rows.json");
  const auto list = [&](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->delimiter(',')->type_name("LIST");
  };
  list("--routers", a->grid.routers, "routers; with none named, all whose logits are x W");
  list("--estimators", a->grid.estimators, "estimators [sparse]");
  add_numbers<std::int64_t>(command, "--experts", a->grid.experts, 1, 65536,
                            "numbers of experts E [4,8,16]");
  add_numbers<std::int64_t>(command, "--active", a->grid.active, 1, 65536,
                            "experts of a token, k [1,2,4]");
  add_numbers<double>(command, "--scale", a->grid.scales, 0, 1e6,
                      "standard deviations of the logits [0.5,1.5,4]");
  list("--loss", a->grid.losses, "losses of the output [linear,quadratic,cubic,mlp]");
  constexpr std::int64_t most = BiasOptions::kMost;
  add_number<std::int64_t>(
      command, "--draws", a->study.draws, 1, most,
      "random logits that a row is the mean over, to 1000000; cases x draws x the larger "
      "of outcomes and samples to 1000000000 [2]");
  add_number<std::uint64_t>(command, "--seed", a->study.seed, 0, kHighest<std::uint64_t>,
                            "of these draws, 0 to 2^64 - 1 [1]");
  add_number<std::int64_t>(command, "--outcomes", a->study.max_outcomes, 1, most,
                           "most outcomes to enumerate, to 1000000; above, Monte Carlo [1000]");
  add_number<std::int64_t>(command, "--samples", a->study.samples, 2, most,
                           "of Monte Carlo, to 1000000 [500]");
  CLI::Option* const own = command.add_flag_callback(
      "--own", [a] { a->study.own = true; },
      "the bias to the own expected loss in every row: it takes some 40 times the outcomes or "
      "samples, for each element [in exact rows, where that is short]");
  own->disable_flag_override();
  command
      .add_flag_callback(
          "--no-own", [a] { a->study.own = false; }, "in no row")
      ->excludes(own)
      ->disable_flag_override();
  command.add_option("--option", a->options, "an option of router, estimator or layer")
      ->type_name("key=value")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add_device(command, a->study.device);
  command.add_option("--out", a->out, "folder of the report [runs/bias]")->type_name("DIR");
  add_json(command, a->json);
  command.callback([a, &global] { global.exit_code = run_bias(*a); });
}

}  // namespace moegrad
