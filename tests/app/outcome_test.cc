// How every command begins and ends.

#include "app/outcome.h"

#include <csignal>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sys/resource.h>

#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::kClosed;
using test::Outcome;
using test::run;
using test::TemporaryFolder;

// The last line of standard error, and the exit code, for a command that throws.
std::string told(const std::function<int()>& command) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  const int code = outcome_of(command, file);
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  CHECK(std::fread(text.data(), 1, text.size(), file) == text.size());
  std::fclose(file);
  return fmt::format("{} {}", code, text);
}

TEST_CASE("outcome: whatever a command throws is a message and an exit code") {
  CHECK(told([] { return 1; }) == "1 ");
  CHECK(told([]() -> int { throw Error("[a] b. C."); }) == "2 moegrad: [a] b. C.\n");
  CHECK(told([]() -> int { throw std::bad_alloc(); }) ==
        "2 moegrad: [memory] not enough memory. Choose smaller sizes.\n");
  CHECK(told([]() -> int {
          fs::create_directory("/proc/none/a");
          return 0;
        }) ==
        "2 moegrad: [files] '/proc/none/a': No such file or directory. Check the path and its "
        "permissions.\n");
  CHECK(told([]() -> int { throw std::out_of_range("stoll"); }) ==
        "2 moegrad: [internal] stoll. This is a fault of moegrad: please report it.\n");
  CHECK(told([]() -> int { throw 1; }) ==
        "2 moegrad: [internal] unknown. This is a fault of moegrad: please report it.\n");
}

constexpr auto kLost =
    "moegrad: [output] text for standard output or standard error could not be "
    "written: {}. Free some space, or send the text elsewhere.\n";

std::vector<std::string> small_run(const fs::path& out) {
  return {"train",   "synthetic", "--experts", "4", "--width",  "8", "--hidden",    "8",
          "--batch", "1024",      "--out",     out, "--epochs", "1", "--log-every", "1"};
}

// Each prints to standard output and ends with 0.
std::vector<std::vector<std::string>> commands(const TemporaryFolder& folder) {
  return {{"list"},
          {"list", "--json"},
          {"list", "--markdown", "routers"},
          {"--help"},
          {"train", "--version"},
          {"gradcheck", "exp"},
          {"gradcheck", "exp", "--json"},
          {"study", "bias", "--routers", "top-k", "--experts", "4", "--active", "2", "--scale", "1",
           "--loss", "linear", "--out", folder / "bias"},
          small_run(folder / "run")};
}

TEST_CASE("outcome: a full disk or nothing behind standard output is exit code 2") {
  for (const std::string out : {"/dev/full", "closed"}) {
    const TemporaryFolder folder;
    for (const std::vector<std::string>& command : commands(folder)) {
      const Outcome o = run({out, folder / "stderr"}, command);
      const std::string name = fmt::format("{} > {}", fmt::join(command, " "), out);
      CHECK_MESSAGE(o.code == 2, name);
      const std::string expected = fmt::format(
          fmt::runtime(kLost), out == kClosed ? "Bad file descriptor" : "No space left on device");
      CHECK_MESSAGE(o.err.ends_with(expected), name << ": " << o.err);
    }
    CHECK(fs::exists(folder / "bias/rows.jsonl"));
    CHECK(fs::exists(folder / "run/result.json"));
  }
}

TEST_CASE("outcome: a full disk or nothing behind standard error does not end a training") {
  const TemporaryFolder whole;
  REQUIRE(run(whole, small_run(whole / "run")).code == 0);
  const auto lines = [](const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  };
  for (const std::string err : {"/dev/full", "closed"}) {
    const TemporaryFolder folder;
    const Outcome o = run({folder / "stdout", err}, small_run(folder / "run"));
    CHECK(o.code == 2);  // of the text that was lost
    CHECK(o.out.starts_with("test accuracy 0."));
    const std::string metrics = read_file(folder / "run/metrics.jsonl");
    CHECK(lines(metrics) == 9);
    CHECK(metrics.find("epoch 1/1") == std::string::npos);  // no progress among them
    const auto name = "run/checkpoints/step-00000008.safetensors";
    CHECK(read_file(folder / name) == read_file(whole / name));
    // Where there is nothing to say, nothing is lost; a mistake stays one.
    CHECK(run({folder / "stdout", err}, {"list"}).code == 0);
    CHECK(run({folder / "stdout", err}, {"lst"}).code == 2);
  }
  const TemporaryFolder folder;
  CHECK(run({std::string(kClosed), std::string(kClosed)}, small_run(folder / "run")).code == 2);
  CHECK(lines(read_file(folder / "run/metrics.jsonl")) == 9);
}

TEST_CASE("outcome: the limit of a file's size is an error of every command, not its end") {
  const TemporaryFolder folder;
  rlimit old = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const rlimit limit{16, old.rlim_max};
  for (std::vector<std::string> command : commands(folder)) {
    const std::string out = folder / "stdout";
    const auto json = std::find(command.begin(), command.end(), "--json");
    if (json != command.end()) command.insert(json + 1, folder / "rows.json");
    if (command.back() == "--version") continue;  // short enough
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const Outcome o = run({out, "/dev/null"}, command);
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_MESSAGE(o.code == 2, fmt::format("{}", fmt::join(command, " ")));
  }
}

}  // namespace
}  // namespace moegrad
