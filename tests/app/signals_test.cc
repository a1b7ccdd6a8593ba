// A terminal that is closed, and a reader of the text that is gone.

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::Process;
using test::run;
using test::TemporaryFolder;

std::vector<std::string> training(const fs::path& out) {
  return {"train",
          "synthetic",
          "--experts",
          "4",
          "--width",
          "16",
          "--hidden",
          "16",
          "--batch",
          "64",
          "--out",
          out,
          "--epochs",
          "10",
          "--log-every",
          "1",
          "--checkpoint-every",
          "10"};
}

void wait_for_steps(const fs::path& out) {
  for (int i = 0; i < 60000; ++i) {
    std::error_code none;
    const auto size = fs::file_size(out / "metrics.jsonl", none);
    if (!none && size > 1000) return;
    ::usleep(1000);
  }
  FAIL("no step was made");
}

TEST_CASE("signals: where its terminal is closed, a training stops and is saved") {
  const TemporaryFolder folder;
  Process process(folder, training(folder / "run"));
  wait_for_steps(folder / "run");
  process.signal(SIGHUP);
  const Outcome o = process.wait();
  CHECK(o.code == 128 + SIGHUP);
  CHECK(o.err.find("stopped after step ") != std::string::npos);
  CHECK(run(folder, {"train", "--resume", "--out", folder / "run"}).code == 0);
}

TEST_CASE("signals: a second one ends a run of a study at once, in the middle of a step") {
  const TemporaryFolder folder;
  std::vector<std::string> command = {"train", "synthetic", "--parent", std::to_string(::getpid())};
  // Steps of more than a second.
  for (const auto& [flag, value] : {std::pair("--experts", "8"),
                                    {"--active", "8"},
                                    {"--width", "256"},
                                    {"--hidden", "4096"},
                                    {"--batch", "2048"}}) {
    command.insert(command.end(), {flag, value});
  }
  command.insert(command.end(), {"--out", folder / "run"});
  Process process(folder, command);
  while (!fs::exists(folder / "run/config.json")) ::usleep(1000);
  ::usleep(100'000);
  process.signal(SIGTERM);
  ::usleep(100'000);
  process.signal(SIGTERM);
  const Outcome o = process.wait();
  CHECK(o.code == 128 + SIGTERM);
  CHECK(o.err.find("stopped after step") == std::string::npos);
}

TEST_CASE("signals: under nohup it goes on") {
  const TemporaryFolder folder;
  const auto before = std::signal(SIGHUP, SIG_IGN);
  Process process(folder, training(folder / "run"));
  std::signal(SIGHUP, before);
  wait_for_steps(folder / "run");
  process.signal(SIGHUP);
  CHECK(process.wait().code == 0);
  CHECK(fs::exists(folder / "run/result.json"));
}

TEST_CASE("signals: a training outlives the reader of its text") {
  const TemporaryFolder folder;
  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(reader >= 0);
  Process process({folder / "stdout", pipe}, training(folder / "run"));
  wait_for_steps(folder / "run");
  ::close(reader);
  const Outcome o = process.wait();
  CHECK(o.code == 2);
  CHECK(o.out.starts_with("test accuracy"));
  CHECK(fs::exists(folder / "run/result.json"));
}

TEST_CASE("signals: every command outlives the reader of its text, and writes its files") {
  const TemporaryFolder folder;
  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const std::string bias = folder / "bias";
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"list"},
        {"--help"},
        {"gradcheck", "exp", "log", "--json", folder / "checks.json"},
        {"study", "bias", "--routers", "top-k", "--experts", "4", "--active", "2", "--out",
         bias}}) {
    const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(reader >= 0);
    // Full, so that the program waits with its first text until the reader is gone.
    const int writer = ::open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    const std::string page(4096, 'x');
    while (::write(writer, page.data(), page.size()) > 0) {
    }
    ::close(writer);
    Process process({pipe, folder / "stderr"}, command);
    ::close(reader);
    const Outcome o = process.wait();
    CHECK(o.code == 2);
    CHECK(o.err.find("could not be written: Broken pipe") != std::string::npos);
  }
  CHECK(fs::exists(folder / "checks.json"));
  for (const char* name : {"rows.jsonl", "plot.svg"}) CHECK(fs::exists(folder / "bias" / name));
}

TEST_CASE("signals: a reader that is slow, of a pipe that does not block, gets the whole text") {
  const TemporaryFolder folder;
  const std::string whole = run(folder, {"list"}).out;
  std::array<int, 2> pipe = {};
  REQUIRE(::pipe2(pipe.data(), O_NONBLOCK | O_CLOEXEC) == 0);
  ::fcntl(pipe[1], F_SETPIPE_SZ, 4096);
  REQUIRE(whole.size() > 8192);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::dup2(pipe[1], STDOUT_FILENO) >= 0) ::execl(MOEGRAD_BINARY, "moegrad", "list", nullptr);
    ::_exit(1);
  }
  ::close(pipe[1]);
  std::string text;
  std::array<char, 1000> part = {};
  for (ssize_t got = -1; got != 0;) {
    ::usleep(1000);
    got = ::read(pipe[0], part.data(), part.size());
    if (got > 0) text.append(part.data(), static_cast<std::size_t>(got));
    if (got < 0 && errno != EAGAIN) break;
  }
  ::close(pipe[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(text == whole);
}

TEST_CASE("signals: what a study starts does not ignore what the study ignores") {
  const TemporaryFolder folder;
  {
    std::ofstream script(folder / "gnuplot");
    script << "#!/bin/sh\ngrep SigIgn /proc/self/status\n";
  }
  fs::permissions(folder / "gnuplot", fs::perms::owner_all);
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", (folder.path().string() + ":" + path).c_str(), 1);
  const Outcome o = run(folder, {"study", "bias", "--routers", "top-k", "--experts", "4",
                                 "--active", "2", "--out", folder / "bias"});
  ::setenv("PATH", path.c_str(), 1);
  CHECK(o.code == 0);
  const std::string status = read_file(folder / "bias/plot.svg");
  REQUIRE(status.starts_with("SigIgn:"));
  const std::uint64_t ignored = std::stoull(status.substr(7), nullptr, 16);
  for (const int number : {SIGPIPE, SIGXFSZ}) CHECK((ignored >> (number - 1) & 1) == 0);
}

}  // namespace
}  // namespace moegrad
