#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moegrad::bench {

using Program = std::function<void()>;

struct Spread {
  double median = 0.0, min = 0.0, max = 0.0;
  int rounds = 0;
};
Spread spread_of(std::vector<double> values);

// Seconds per call, over `calls` calls.
double seconds(const Program& program, int calls);

// Calls that last about 30 ms together, at least one; runs the program to find out.
int calls_for(const Program& program);

// Two programs by turns, A B B A A B ..., so that what the machine does meanwhile meets both alike:
// seconds per call, and the ratio a / b of each round. Rounds fill about `budget` seconds, 9 to 15.
struct SideBySide {
  Spread a, b, ratio;
};
SideBySide side_by_side(const Program& a, const Program& b, double budget);

// What a value is held to.
struct Target {
  bool at_least = false;  // else at most
  double bound = 0.0;
};
inline Target at_least(double bound) { return {true, bound}; }
inline Target at_most(double bound) { return {false, bound}; }

// One line of the report.
struct Row {
  std::string what;     // a row of the table of targets, or of a table of its own
  std::string setting;  // sizes
  int threads = 1;
  std::string unit;
  Spread value;
  std::optional<Target> target = {};
};

// {"rows": [...]}: each with its fields, and `met` where there is a target; met is by the median.
std::string to_json(const std::vector<Row>& rows);

}  // namespace moegrad::bench
