// Runs the program itself.
#pragma once

#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad::test {

// The objects of a file with one a line.
inline nlohmann::json json_lines(const std::filesystem::path& file) {
  nlohmann::json objects = nlohmann::json::array();
  std::istringstream lines(read_file(file));
  for (std::string line; std::getline(lines, line);) {
    objects.push_back(nlohmann::json::parse(line));
  }
  return objects;
}

struct Outcome {
  int code = -1;  // 128 + n where signal n ended it
  std::string out, err;
};

// Where standard output and error go; kClosed: they are closed.
inline constexpr std::string_view kClosed = "closed";
struct Streams {
  std::string out, err;
};

// `moegrad ARGUMENTS`, running; its output goes to files of the folder.
class Process {
 public:
  Process(const TemporaryFolder& folder, std::vector<std::string> arguments)
      : Process({folder / "stdout", folder / "stderr"}, std::move(arguments)) {}
  Process(Streams streams, std::vector<std::string> arguments) : streams_(std::move(streams)) {
    arguments.insert(arguments.begin(), MOEGRAD_BINARY);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    for (const auto& [descriptor, path] : {std::pair(1, &streams_.out), {2, &streams_.err}}) {
      if (*path == kClosed) {
        posix_spawn_file_actions_addclose(&actions, descriptor);
      } else {
        posix_spawn_file_actions_addopen(&actions, descriptor, path->c_str(), flags, 0644);
      }
    }
    REQUIRE(::posix_spawn(&pid_, MOEGRAD_BINARY, &actions, nullptr, pointers.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  // One that was not waited for does not outlive its test.
  ~Process() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  void signal(int number) const { ::kill(pid_, number); }
  Outcome wait() {
    int status = 0;
    REQUIRE(::waitpid(std::exchange(pid_, 0), &status, 0) > 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text(streams_.out),
            text(streams_.err)};
  }

  pid_t number() const { return pid_; }

 private:
  static std::string text(const std::string& path) {
    return std::filesystem::is_regular_file(path) ? read_file(path) : "";
  }

  Streams streams_;
  pid_t pid_ = 0;
};

inline Outcome run(const TemporaryFolder& folder, std::vector<std::string> arguments) {
  return Process(folder, std::move(arguments)).wait();
}

inline Outcome run(Streams streams, std::vector<std::string> arguments) {
  return Process(std::move(streams), std::move(arguments)).wait();
}

}  // namespace moegrad::test
