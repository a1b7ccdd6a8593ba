// Runs the program itself.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad::test {

struct Outcome {
  int code = -1;  // 128 + n where signal n ended it
  std::string out, err;
};

// `moegrad ARGUMENTS`, running; its output goes to files of the folder.
class Process {
 public:
  Process(const TemporaryFolder& folder, std::vector<std::string> arguments)
      : out_(folder / "stdout"), err_(folder / "stderr") {
    arguments.insert(arguments.begin(), MOEGRAD_BINARY);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), flags, 0644);
    posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), flags, 0644);
    REQUIRE(::posix_spawn(&pid_, MOEGRAD_BINARY, &actions, nullptr, pointers.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  void signal(int number) const { ::kill(pid_, number); }
  Outcome wait() const {
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, 0) == pid_);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out_),
            read_file(err_)};
  }

 private:
  std::filesystem::path out_, err_;
  pid_t pid_ = 0;
};

inline Outcome run(const TemporaryFolder& folder, std::vector<std::string> arguments) {
  return Process(folder, std::move(arguments)).wait();
}

}  // namespace moegrad::test
