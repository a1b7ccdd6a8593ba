// moegrad_report: the rows of the targets, as JSON on standard output; progress goes to standard
// error. With --threads: those that compare all threads with one alone. With --serve: the other
// side of bench/peers/compare.py. With --tape: nanoseconds to record an operation on a tensor of
// one element, and to replay it backward.
#include <cstdio>
#include <exception>
#include <string>

#include <fmt/core.h>

#include "bench/report/cases.h"
#include "bench/report/rows.h"
#include "tensor/threads.h"

int main(int argc, char** argv) {
  using namespace moegrad::bench;
  const std::string argument = argc > 1 ? argv[1] : "";
  if (argc > 2 ||
      (argc == 2 && argument != "--serve" && argument != "--tape" && argument != "--threads")) {
    fmt::print(stderr, "[report] unknown argument '{}'. Known are --serve, --tape, --threads.\n",
               argument);
    return 2;
  }
  try {
    if (argument == "--serve") {
      serve();
    } else if (argument == "--tape") {
      time_tape(200);
      const TapeTimes t = time_tape(1000);
      fmt::print("{:.1f} {:.1f}\n", t.record * 1e9, t.backward * 1e9);
    } else {
      const auto progress = [](const std::string& what) {
        fmt::print(stderr, "[report] {}\n", what);
      };
      const bool all = argument != "--threads";
      fmt::print("{}\n",
                 to_json(all ? measure_rows(progress) : thread_rows(moegrad::threads(), progress)));
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "[report] {}\n", error.what());
    return 1;
  }
}
