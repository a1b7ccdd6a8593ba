// Two processes that write the same folder.

#include <array>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tensor/folders.h"
#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Outcome;
using test::Process;
using test::run;
using test::TemporaryFolder;

std::vector<std::string> training(const fs::path& out, const std::string& width,
                                  const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {
      "train",   "synthetic", "--experts", "4", "--width",  width, "--hidden",    "8",
      "--batch", "1024",      "--out",     out, "--epochs", "2",   "--log-every", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// One run's files: a config, its result, all lines of its metrics, checkpoints of its shapes.
void check_one_run(const TemporaryFolder& folder, const fs::path& out, const std::string& width) {
  CHECK(json::parse(read_file(out / "config.json"))["width"] == std::stoi(width));
  std::istringstream lines(read_file(out / "metrics.jsonl"));
  std::vector<std::int64_t> steps;
  for (std::string line; std::getline(lines, line);) {
    const json object = json::parse(line);
    if (object["kind"] == "step") steps.push_back(object["step"]);
  }
  REQUIRE(steps.size() == 16);
  for (std::size_t i = 0; i < steps.size(); ++i)
    CHECK(steps[i] == static_cast<std::int64_t>(i + 1));
  CHECK(files_in(out / "checkpoints").size() == 2);
  CHECK(files_in(out).size() == 4);
  const Outcome resumed = run(folder, {"train", "--resume", "--out", out});
  CHECK_MESSAGE(resumed.code == 0, resumed.err);
}

TEST_CASE("two runs at once in one folder: one of them trains, the other is refused by name") {
  const TemporaryFolder folder;
  int refused_in_use = 0;
  for (int pair = 0; pair < 20; ++pair) {
    const fs::path out = folder / fmt::format("run{}", pair);
    Process first({folder / "out1", folder / "err1"}, training(out, "8"));
    Process second({folder / "out2", folder / "err2"}, training(out, "16"));
    const std::array<pid_t, 2> numbers = {first.number(), second.number()};
    const Outcome a = first.wait();
    const Outcome b = second.wait();
    CHECK((a.code == 0) != (b.code == 0));
    const Outcome& refused = a.code == 0 ? b : a;
    CHECK(refused.code == 2);
    const std::string in_use = fmt::format(
        "moegrad: [lock] the folder '{}' is in use by process {}. Wait until it has "
        "ended, or choose another folder with --out.\n",
        out.string(), numbers[a.code == 0 ? 0 : 1]);
    refused_in_use += refused.err == in_use ? 1 : 0;
    CHECK_MESSAGE((refused.err == in_use || refused.err.find("holds a run that was finished "
                                                             "already") != std::string::npos),
                  refused.err);
    check_one_run(folder, out, a.code == 0 ? "8" : "16");
  }
  CHECK(refused_in_use > 0);
}

TEST_CASE("two runs at once in one folder, with --force and --resume") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  REQUIRE(run(folder, training(out, "8")).code == 0);
  for (int pair = 0; pair < 10; ++pair) {
    Process first({folder / "out1", folder / "err1"}, training(out, "8", {"--force"}));
    Process second({folder / "out2", folder / "err2"},
                   pair % 2 == 0 ? training(out, "16", {"--force"})
                                 : std::vector<std::string>{"train", "--resume", "--out", out});
    const Outcome a = first.wait();
    const Outcome b = second.wait();
    CHECK((a.code == 0 || b.code == 0));
    for (const Outcome* o : {&a, &b}) {
      if (o->code == 0) continue;
      CHECK(o->code == 2);
      CHECK(o->err.starts_with("moegrad: ["));
    }
    const json config = json::parse(read_file(out / "config.json"));
    check_one_run(folder, out, config["width"].dump());
  }
}

TEST_CASE(
    "two studies at once in one folder: the second is refused; a killed one is not in the way") {
  const TemporaryFolder folder;
  const std::vector<std::string> endless = {"study", "bias",  "--draws",
                                            "200",   "--out", folder / "bias"};
  Process first({folder / "out1", folder / "err1"}, endless);
  const fs::path lock = folder / "bias" / FolderLock::kName;
  for (int tries = 0; tries < 30000 && !fs::exists(lock); ++tries) ::usleep(1000);
  REQUIRE(fs::exists(lock));
  const std::vector<std::string> small = {"study",     "bias",   "--routers", "top-k",
                                          "--experts", "4",      "--active",  "2",
                                          "--loss",    "linear", "--out",     folder / "bias"};
  const Outcome second = run(folder, small);
  CHECK(second.code == 2);
  CHECK(second.err ==
        fmt::format("moegrad: [lock] the folder '{}' is in use by process {}. Wait until it has "
                    "ended, or choose another folder with --out.\n",
                    (folder / "bias").string(), first.number()));
  first.signal(SIGKILL);
  CHECK(first.wait().code == 128 + SIGKILL);
  const Outcome third = run(folder, small);
  CHECK_MESSAGE(third.code == 0, third.err);
  CHECK(files_in(folder / "bias").size() == 4);
}

}  // namespace
}  // namespace moegrad
