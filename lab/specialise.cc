#include "lab/specialise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

namespace moegrad {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostClassesOfRow = 16;

Counts zeros(std::int64_t rows, std::size_t columns) {
  return Counts(static_cast<std::size_t>(rows), std::vector<double>(columns, 0.0));
}

// Calls f(token, expert) for each choice.
template <class F>
void each_choice(const Routes& routes, F&& f) {
  for (std::size_t i = 0; i < routes.experts.size(); ++i) {
    const std::int32_t expert = routes.experts[i];
    if (expert >= 0) {
      f(i / static_cast<std::size_t>(routes.choices), static_cast<std::size_t>(expert));
    }
  }
}

std::size_t number_of_classes(const TokenClasses& classes) {
  if (!classes.names.empty()) return classes.names.size();
  const auto largest = std::ranges::max_element(classes.of_token);
  return largest == classes.of_token.end() ? 0 : static_cast<std::size_t>(*largest) + 1;
}

}  // namespace

double entropy(const std::vector<double>& counts) {
  double all = 0.0;
  for (const double n : counts) all += n;
  double sum = 0.0;
  for (const double n : counts) {
    if (n > 0.0) sum -= n / all * std::log(n / all);
  }
  return sum;
}

double mutual_information(const Counts& counts) {
  std::vector<double> rows;
  std::vector<double> columns;
  std::vector<double> cells;
  for (const std::vector<double>& row : counts) {
    columns.resize(row.size());
    double sum = 0.0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      sum += row[j];
      columns[j] += row[j];
      cells.push_back(row[j]);
    }
    rows.push_back(sum);
  }
  return entropy(rows) + entropy(columns) - entropy(cells);
}

Counts choices_by_class(const Routes& routes, std::int64_t experts, const TokenClasses& classes) {
  Counts counts = zeros(experts, number_of_classes(classes));
  each_choice(routes, [&](std::size_t token, std::size_t expert) {
    const std::int32_t known = classes.of_token[token];
    if (known >= 0) counts[expert][static_cast<std::size_t>(known)] += 1.0;
  });
  return counts;
}

Telling telling_of(const Routes& routes, std::int64_t experts, const TokenClasses& classes) {
  Telling t{.of = classes.name};
  t.choices = choices_by_class(routes, experts, classes);
  std::vector<double> of_class(number_of_classes(classes));
  double all = 0.0;
  double used = 0.0;
  for (const std::vector<double>& row : t.choices) {
    double of_expert = 0.0;
    for (std::size_t c = 0; c < row.size(); ++c) {
      of_class[c] += row[c];
      of_expert += row[c];
    }
    all += of_expert;
    used += of_expert > 0.0 ? 1.0 : 0.0;
  }
  t.information = mutual_information(t.choices);
  const double most = entropy(of_class);
  t.share = most > 0.0 ? t.information / most : std::numeric_limits<double>::quiet_NaN();
  const auto seen = static_cast<double>(
      std::ranges::count_if(of_class, [](double count) { return count > 0.0; }));
  t.by_chance = all > 0.0 ? (used - 1.0) * (seen - 1.0) / (2.0 * all) : 0.0;
  for (std::size_t c = 0; c < of_class.size(); ++c) {
    t.classes.push_back(classes.names.empty() ? fmt::format("{}", c) : classes.names[c]);
  }
  return t;
}

Together together_of(const Routes& routes, std::int64_t experts) {
  Together t;
  t.tokens = zeros(experts, static_cast<std::size_t>(experts));
  std::vector<std::size_t> of_token;
  std::size_t token = 0;
  const auto add = [&] {
    for (const std::size_t a : of_token) {
      for (const std::size_t b : of_token) t.tokens[a][b] += 1.0;
    }
    of_token.clear();
  };
  each_choice(routes, [&](std::size_t at, std::size_t expert) {
    if (at != token) add();
    token = at;
    of_token.push_back(expert);
  });
  add();
  const auto tokens = static_cast<double>(routes.tokens());
  for (std::size_t a = 0; a < t.tokens.size(); ++a) {
    for (std::size_t b = a + 1; b < t.tokens.size(); ++b) {
      const double chance = t.tokens[a][a] * t.tokens[b][b] / tokens;
      if (t.tokens[a][b] == 0.0 || t.tokens[a][b] / chance <= t.lift) continue;
      t.lift = t.tokens[a][b] / chance;
      t.first = static_cast<int>(a);
      t.second = static_cast<int>(b);
    }
  }
  return t;
}

double overlap(const Routes& now, const Routes& last) {
  const auto k = static_cast<std::size_t>(last.choices);
  const auto there = static_cast<std::size_t>(now.choices);
  double sum = 0.0;
  double tokens = 0.0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(last.tokens()); ++t) {
    double chosen = 0.0;
    double same = 0.0;
    for (std::size_t i = t * k; i < (t + 1) * k; ++i) {
      if (last.experts[i] < 0) continue;
      chosen += 1.0;
      for (std::size_t j = t * there; j < (t + 1) * there; ++j) {
        if (now.experts[j] == last.experts[i]) same += 1.0;
      }
    }
    if (chosen == 0.0) continue;
    sum += same / chosen;
    tokens += 1.0;
  }
  return tokens == 0.0 ? std::numeric_limits<double>::quiet_NaN() : sum / tokens;
}

std::vector<SpecialiseRow> specialise(const std::string& run,
                                      const std::vector<std::filesystem::path>& checkpoints,
                                      const Dataset& data) {
  std::vector<SpecialiseRow> rows;
  std::vector<Routes> last;
  // The last one first: the others are held against it.
  for (auto path = checkpoints.rbegin(); path != checkpoints.rend(); ++path) {
    const StoredModel model = load_model(*path);
    const std::vector<TokenClasses> classes = token_classes(model, data);
    const std::int64_t experts = model.model->mixture().config().size.experts;
    const std::vector<Routes> routes = routes_of(model, data);
    if (last.empty()) last = routes;
    for (std::size_t l = 0; l < routes.size(); ++l) {
      SpecialiseRow row{.run = run, .step = model.step, .layer = static_cast<int>(l)};
      for (const TokenClasses& c : classes)
        row.tellings.push_back(telling_of(routes[l], experts, c));
      row.together = together_of(routes[l], experts);
      row.already_chosen = overlap(routes[l], last[l]);
      rows.push_back(std::move(row));
    }
  }
  std::ranges::stable_sort(rows, {}, &SpecialiseRow::step);
  return rows;
}

std::string to_json(const SpecialiseRow& row) {
  Json tellings = Json::object();
  for (const Telling& t : row.tellings) {
    Json telling = {{"information", t.information}, {"share", t.share}, {"by_chance", t.by_chance}};
    if (t.classes.size() <= kMostClassesOfRow) {
      telling["classes"] = t.classes;
      telling["choices"] = t.choices;
    }
    tellings[t.of] = telling;
  }
  return Json{{"run", row.run},
              {"step", row.step},
              {"layer", row.layer},
              {"tells", tellings},
              {"together",
               {{"lift", row.together.lift},
                {"first", row.together.first},
                {"second", row.together.second},
                {"tokens", row.together.tokens}}},
              {"already_chosen", row.already_chosen}}
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace moegrad
