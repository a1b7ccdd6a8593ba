#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/report/measure.h"

namespace moegrad::bench {

// Measures every row of the targets that needs nobody else, in the order of the report; `progress`
// is told what is being measured.
std::vector<Row> measure_rows(const std::function<void(const std::string&)>& progress);

// The rows that compare all threads with one, on a quiet machine and on a busy one.
std::vector<Row> thread_rows(int threads, const std::function<void(const std::string&)>& progress);

// Answers the commands of bench/peers/compare.py, one a line on standard input, until it ends.
void serve();

}  // namespace moegrad::bench
