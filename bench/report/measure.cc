#include "bench/report/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <nlohmann/json.hpp>

namespace moegrad::bench {

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2.0, values.front(), values.back(),
          static_cast<int>(n)};
}

double seconds(const Program& program, int calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) program();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

int calls_for(const Program& program) {
  constexpr double kPiece = 0.03;
  const double first = seconds(program, 1);  // fills the pool as well
  if (first > 3.0 * kPiece) return 1;
  const double once = seconds(program, 1);
  return std::max(1, static_cast<int>(std::lround(kPiece / once)));
}

// A single round is off by a tenth now and then, and some bounds are 2 and 5 % above 1.
constexpr std::size_t kLeastRounds = 9;
constexpr std::size_t kMostRounds = 15;

SideBySide side_by_side(const Program& a, const Program& b, double budget) {
  const int calls_a = calls_for(a);
  const int calls_b = calls_for(b);
  std::vector<double> of_a, of_b, ratio;
  double spent = 0.0;
  while (ratio.size() < kLeastRounds || (ratio.size() < kMostRounds && spent < budget)) {
    const bool a_first = ratio.size() % 2 == 0;
    const double first = a_first ? seconds(a, calls_a) : seconds(b, calls_b);
    const double second = a_first ? seconds(b, calls_b) : seconds(a, calls_a);
    of_a.push_back(a_first ? first : second);
    of_b.push_back(a_first ? second : first);
    ratio.push_back(of_a.back() / of_b.back());
    spent += of_a.back() * calls_a + of_b.back() * calls_b;
  }
  return {spread_of(of_a), spread_of(of_b), spread_of(ratio)};
}

std::string to_json(const std::vector<Row>& rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Row& r : rows) {
    nlohmann::ordered_json row = {{"what", r.what},           {"setting", r.setting},
                                  {"threads", r.threads},     {"unit", r.unit},
                                  {"median", r.value.median}, {"min", r.value.min},
                                  {"max", r.value.max},       {"rounds", r.value.rounds}};
    if (r.target) {
      const bool met = r.target->at_least ? r.value.median >= r.target->bound
                                          : r.value.median <= r.target->bound;
      row["at_least"] = r.target->at_least;
      row["target"] = r.target->bound;
      row["met"] = met;
    }
    list.push_back(std::move(row));
  }
  return nlohmann::ordered_json{{"rows", std::move(list)}}.dump(1);
}

}  // namespace moegrad::bench
