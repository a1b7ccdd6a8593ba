#include "lab/learning_rate.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

namespace moegrad {

std::vector<Variant> points_of_rates(const std::vector<double>& rates) {
  std::vector<Variant> points;
  for (const double rate : rates) {
    const std::string text = fmt::format("{}", rate);
    points.push_back({"lr=" + text, {{"lr", text}}});
  }
  return points;
}

std::vector<Variant> methods_of_size() {
  return {{"top-k", {}},
          {"ste-dense", {{"estimator", "ste-dense"}}},
          {"ste-dense-norms", {{"norms_of", "ste-dense"}}},
          {"ste-dense-router", {{"estimator", "ste-dense-router"}}},
          {"ste-dense-router-norms", {{"norms_of", "ste-dense-router"}}},
          {"expert-group", {{"estimator", "expert-group"}}},
          {"expert-group-norms", {{"norms_of", "expert-group"}}}};
}

std::vector<BestRate> best_rates(const std::vector<Variant>& methods,
                                 const std::vector<double>& rates,
                                 const std::vector<CompareRow>& rows, double margin) {
  const auto row_of = [&](std::size_t rate, std::size_t method) -> const CompareRow& {
    return rows[rate * methods.size() + method];
  };
  std::vector<BestRate> best;
  std::vector<PairedDifference> differences;
  std::vector<std::size_t> places;
  for (std::size_t m = 0; m < methods.size(); ++m) {
    std::size_t place = rates.size();
    for (std::size_t r = 0; r < rates.size(); ++r) {
      const double loss = row_of(r, m).mean.loss;
      if (std::isnan(loss)) continue;
      if (place == rates.size() || loss < row_of(place, m).mean.loss) place = r;
    }
    places.push_back(place);
    BestRate& row = best.emplace_back();
    row.method = methods[m].name;
    row.rate = std::numeric_limits<double>::quiet_NaN();
    row.mean.loss = row.rate;
    if (place == rates.size()) {
      if (m > 0) differences.emplace_back();
      continue;
    }
    row.rate = rates[place];
    row.at_edge = place == 0 || place + 1 == rates.size();
    row.mean = row_of(place, m).mean;
    if (m == 0) continue;
    differences.push_back(
        places[0] == rates.size()
            ? PairedDifference{}
            : difference_of_losses(row_of(place, m).runs, row_of(places[0], 0).runs, margin));
  }
  const std::vector<Judged> all = judged(differences);
  for (std::size_t m = 1; m < methods.size(); ++m) best[m].judged = all[m - 1];
  return best;
}

std::string to_json(const BestRate& row) {
  const PairedDifference& d = row.judged.difference;
  nlohmann::ordered_json mean = nlohmann::ordered_json::object();
  for (const NamedFigure& f : run_figures()) mean[f.name] = row.mean.*f.member;
  return nlohmann::ordered_json{{"method", row.method},
                                {"best_rate", row.rate},
                                {"at_edge", row.at_edge},
                                {"mean", mean},
                                {"pairs", d.pairs},
                                {"difference", d.mean},
                                {"error", d.error},
                                {"low", d.low},
                                {"high", d.high},
                                {"p_different", row.judged.p_different},
                                {"p_equivalent", row.judged.p_equivalent},
                                {"verdict", verdict_text(d, row.judged.verdict)}}
      .dump();
}

}  // namespace moegrad
