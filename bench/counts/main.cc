// Counts the instructions of fixed cases with valgrind's callgrind, and compares them with those
// recorded in counts.json.
//
//   moegrad_counts check FILE     measure all; fail where one is off by more than 5 %
//   moegrad_counts record FILE    measure all and write them
//   moegrad_counts run CASE       what the others start under callgrind
//
// The program is compiled for one fixed level of x86-64 (CMakeLists.txt) and runs on one thread:
// the figures are those of every machine with the same compiler and libraries.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "bench/counts/cases.h"
#include "bench/counts/compare.h"
#include "tensor/error.h"
#include "tensor/parse.h"

// callgrind counts while this function runs, and knows it by its name.
extern "C" __attribute__((noinline)) void moegrad_counted(const moegrad::CountCase& c) { c.call(); }

namespace moegrad {
namespace {

constexpr int kWarmUp = 3;
constexpr int kRepeats = 4;
constexpr int kSkipped = 77;  // CTest's word for it is in CMakeLists.txt

void run(std::string_view name) {
  for (const CountEntry& entry : count_entries()) {
    if (entry.name != name) continue;
    const CountCase c = entry.make();
    for (int i = 0; i < kWarmUp + kRepeats; ++i) {
      if (c.prepare) c.prepare();
      i < kWarmUp ? c.call() : moegrad_counted(c);
    }
    return;
  }
  fail("counts", "there is no case '{}'. See count_entries().", name);
}

std::string output_of(const std::string& command, int& status) {
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) fail("counts", "'{}' cannot be started.", command);
  std::string text;
  std::array<char, 4096> buffer{};
  while (std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe) != nullptr) {
    text += buffer.data();
  }
  status = pclose(pipe);
  return text;
}

std::uint64_t count(const std::string& program, const std::string& name) {
  const std::string command = fmt::format(
      "MOEGRAD_THREADS=1 valgrind --tool=callgrind "
      "--callgrind-out-file=/dev/null --toggle-collect=moegrad_counted '{}' run {} 2>&1",
      program, name);
  int status = 0;
  const std::string text = output_of(command, status);
  constexpr std::string_view kLabel = "Collected : ";
  const std::size_t place = text.find(kLabel);
  if (status != 0 || place == std::string::npos) {
    throw Error(fmt::format("[counts] '{}' failed:\n{}", command, text));
  }
  return first_number(std::string_view(text).substr(place)) / kRepeats;
}

int main_of(const std::string& program, const std::string& mode, const std::string& file) {
  if (mode == "run") {
    run(file);
    return 0;
  }
  if (mode != "check" && mode != "record") {
    fail("counts", "unknown mode '{}'. Use check FILE, record FILE or run CASE.", mode);
  }
  if (std::system("valgrind --version > /dev/null 2>&1") != 0) {
    fmt::print("[counts] skipped: valgrind is not installed. scripts/setup installs it.\n");
    return kSkipped;
  }
  nlohmann::ordered_json recorded;
  if (mode == "check") {
    recorded = nlohmann::ordered_json::parse(std::ifstream(file));
    if (recorded.at("compiler") != __VERSION__) {
      fmt::print("[counts] skipped: the figures are those of compiler {}, this is {}.\n",
                 recorded.at("compiler").get<std::string>(), __VERSION__);
      return kSkipped;
    }
  }
  Counts measured;
  nlohmann::ordered_json figures;
  for (const CountEntry& entry : count_entries()) {
    measured[entry.name] = count(program, entry.name);
    figures[entry.name] = measured[entry.name];
    fmt::print("{:<28}{:>12}\n", entry.name, measured[entry.name]);
  }
  if (mode == "record") {
    const nlohmann::ordered_json all = {{"compiler", __VERSION__},
                                        {"instructions_per_call", figures}};
    std::ofstream(file) << all.dump(2) << "\n";
    return 0;
  }
  const std::string text =
      differences(recorded.at("instructions_per_call").get<Counts>(), measured);
  if (text.empty()) return 0;
  fmt::print("[counts] off by more than {} %:\n{}Where that is meant: moegrad_counts record {}\n",
             100.0 * kCountTolerance, text, file);
  return 1;
}

}  // namespace
}  // namespace moegrad

int main(int argc, char** argv) {
  try {
    return moegrad::main_of(std::filesystem::canonical("/proc/self/exe").string(),
                            argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
