#include "tensor/folders.h"

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

TEST_CASE("folders: what is there, and what the system does not tell") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "file", "text");
  fs::create_symlink("nowhere", folder / "dangling");
  fs::create_symlink("loop", folder / "loop");
  fs::create_symlink(".", folder / "link");
  CHECK(path_exists(folder / "file"));
  CHECK(!folder_exists(folder / "file"));
  CHECK(folder_exists(folder / "link"));
  for (const char* name : {"no", "no/a", "file/a", "dangling"}) {
    CHECK(!path_exists(folder / name));
    CHECK(!folder_exists(folder / name));
  }
  CHECK(error_of([&] { path_exists(folder / "loop"); }) ==
        fmt::format("[read] cannot read '{}': Too many levels of symbolic links. Check the path "
                    "and its permissions.",
                    (folder / "loop").string()));
  CHECK(error_of([&] { folder_exists(folder / std::string(256, 'n')); }).find("too long") !=
        std::string::npos);
}

TEST_CASE("folders: one for outputs goes again where nothing is written, with those it lies in") {
  const TemporaryFolder folder;
  for (const char* name :
       {"a/b/c", "a/b/c/", "a/.", "a/b/.", "a/../c", "a/./b/../c", "a/b/..", "a/b/../../c"}) {
    CAPTURE(name);
    {
      const OutputFolder out(folder / name);
      CHECK(folder_exists(folder / name));
    }
    CHECK(files_in(folder.path()).empty());
  }
  // Nor does a part of one that cannot be made stay.
  CHECK(error_of([&] { OutputFolder(folder / ("a/b/" + std::string(300, 'x'))); }) != "");
  CHECK(files_in(folder.path()).empty());
  make_folder(folder / "there");
  { const OutputFolder out(folder / "there"); }
  CHECK(path_exists(folder / "there"));
  {
    const OutputFolder out(folder / "a/b/c");
    write_file_atomic(out.path() / "file", "text");
    write_file_atomic(folder / "a/file", "text");
  }
  CHECK(path_exists(folder / "a/b/c/file"));
  remove_file(folder / "a/b/c/file");
  { const OutputFolder out(folder / "a/b/c/d/e"); }
  CHECK(folder_exists(folder / "a/b/c"));
  CHECK(!path_exists(folder / "a/b/c/d"));
}

TEST_CASE("folders: making, listing, removing") {
  const TemporaryFolder folder;
  make_folder(folder / "a/b/c");
  make_folder(folder / "a/b/c");
  CHECK(folder_exists(folder / "a/b/c"));
  write_file_atomic(folder / "file", "text");
  CHECK(error_of([&] { make_folder(folder / "file/a"); }) ==
        fmt::format("[write] cannot make the folder '{}': Not a directory. Choose another path.",
                    (folder / "file/a").string()));
  CHECK(error_of([&] { make_folder(folder / "file"); }).starts_with("[write] cannot make the"));
  CHECK(files_in(folder.path()).size() == 2);
  CHECK(files_in(folder / "none").empty());
  CHECK(error_of([&] { files_in(folder / "file"); }) ==
        fmt::format("[read] cannot read the folder '{}': Not a directory. Check the path and its "
                    "permissions.",
                    (folder / "file").string()));
  remove_file(folder / "none");
  remove_file(folder / "file");
  CHECK(error_of([&] { remove_file(folder / "a"); }) ==
        fmt::format("[write] cannot remove '{}': Is a directory. Choose another path.",
                    (folder / "a").string()));
  CHECK(folder.files() == 1);
}

// Between making a file and locking it a process may be stopped too: such a file anyone may remove.
bool one_is_locked(const fs::path& folder) {
  bool locked = false;
  for (const fs::path& file : files_in(folder)) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    locked = locked || (descriptor >= 0 && ::flock(descriptor, LOCK_EX | LOCK_NB) != 0);
    if (descriptor >= 0) ::close(descriptor);
  }
  return locked;
}

TEST_CASE("folders: temporary files of dead processes are removed, others stay") {
  const TemporaryFolder folder;
  // A process that is killed while it writes: its file is not locked any more.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string bytes(1 << 20, 'x');
    for (int i = 0;; ++i) write_file_atomic(folder / "a", bytes);
  }
  for (int tries = 0; tries < 30000 && !path_exists(folder / "a"); ++tries) ::usleep(1000);
  REQUIRE(path_exists(folder / "a"));
  bool left = false;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + std::chrono::seconds(30);  // others may be working
  while (!left && Clock::now() < end) {
    ::kill(child, SIGSTOP);
    ::usleep(200);
    left = folder.files() == 2 && one_is_locked(folder.path());
    if (left) remove_leftovers(folder.path());  // it is stopped, not dead
    if (left) CHECK(folder.files() == 2);
    if (!left) ::kill(child, SIGCONT);
  }
  REQUIRE(left);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(folder.files() == 2);
  for (const char* name : {".1-a.moegrad-tmp", "1-0.moegrad-tmp", ".1-0.tmp"}) {
    write_file_atomic(folder / name, "not ours");
  }
  CHECK(folder.files() == 4);  // each write has looked for what was left
  ::mkdir((folder / ".1-1.moegrad-tmp").c_str(), 0700);
  fs::create_symlink("a", folder / ".1-2.moegrad-tmp");
  ::mkfifo((folder / ".1-3.moegrad-tmp").c_str(), 0600);
  remove_leftovers(folder.path());
  CHECK(path_exists(folder / "a"));
  CHECK(fs::exists(folder / ".1-1.moegrad-tmp"));
  remove_leftovers(folder / "none");
}

TEST_CASE("folders: those that write in one folder at once leave each other's files alone") {
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(::fork());
    REQUIRE(children.back() >= 0);
    if (children.back() != 0) continue;
    try {
      for (int round = 0; round < 40; ++round) {
        for (const std::string& name : {std::to_string(i), std::string("all")}) {
          write_file_atomic(folder / name, std::to_string(i));
          for (int j = 0; j < 50; ++j) remove_leftovers(folder.path());
        }
      }
    } catch (const Error&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  CHECK(folder.files() == 5);
}

TEST_CASE("folder lock: one holder, named to the second; free again when it ends or dies") {
  const TemporaryFolder folder;
  const auto in_use = [&](pid_t process) {
    return fmt::format(
        "[lock] the folder '{}' is in use by process {}. Wait until it has ended, "
        "or choose another folder with --out.",
        folder.path().string(), process);
  };
  const auto second = [&] { return error_of([&] { const FolderLock lock(folder.path()); }); };
  {
    const FolderLock lock(folder.path());
    CHECK(is_in_use(folder.path()));
    CHECK(second() == in_use(::getpid()));
    const FolderLock other(fs::path(folder.path() / ".."));
  }
  CHECK(!is_in_use(folder.path()));
  CHECK(folder.files() == 0);
  CHECK(second() == "no error");

  std::array<int, 2> pipe = {};
  REQUIRE(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const FolderLock lock(folder.path());
    if (::write(pipe[1], "x", 1) == 1) ::pause();
    ::_exit(0);
  }
  char byte = 0;
  REQUIRE(::read(pipe[0], &byte, 1) == 1);
  CHECK(second() == in_use(child));
  CHECK(is_in_use(folder.path()));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(!is_in_use(folder.path()));
  CHECK(folder.files() == 1);  // the file of the dead one is not in the way
  CHECK(second() == "no error");
  CHECK(folder.files() == 0);
  ::close(pipe[0]);
  ::close(pipe[1]);

  CHECK(error_of([&] { const FolderLock lock(folder / "none"); }) ==
        fmt::format("[write] cannot make the lock '{}/.moegrad-lock': No such file or directory. "
                    "Create its folder first.",
                    (folder / "none").string()));
  write_file_atomic(folder / "file", "precious");
  fs::create_symlink("file", folder / FolderLock::kName);
  CHECK(second().find("Too many levels of symbolic links") != std::string::npos);
  CHECK(read_file(folder / "file") == "precious");
}

TEST_CASE("folder lock: whose folder was renamed or removed is not held, and spares the next one") {
  const TemporaryFolder folder;
  const fs::path run = folder / "run";
  fs::create_directory(run);
  std::optional<FolderLock> first(run);
  first->require_held();
  fs::rename(run, folder / "old");
  CHECK(!first->held());
  fs::create_directory(run);
  const FolderLock second(run);
  CHECK(second.held());
  CHECK(error_of([&] { first->require_held(); }) ==
        fmt::format("[lock] '{}/.moegrad-lock' is not this process's any more: the folder was "
                    "removed or taken by another run. Start again in a folder of its own.",
                    run.string()));
  first.reset();
  CHECK(second.held());
  CHECK(error_of([&] { const FolderLock third(run); }).find("is in use by") != std::string::npos);
  fs::remove_all(run);
  CHECK(!second.held());
}

TEST_CASE("folder lock: what is no lock loses the lock's name, and stays what it is") {
  const TemporaryFolder folder;
  const fs::path name = folder / FolderLock::kName;
  write_file_atomic(folder / "file", "precious");
  fs::create_hard_link(folder / "file", name);
  {
    const FolderLock lock(folder.path());
    CHECK(lock.held());
    CHECK(fs::hard_link_count(folder / "file") == 1);
  }
  CHECK(read_file(folder / "file") == "precious");
  REQUIRE(::mkfifo(name.c_str(), 0600) == 0);
  CHECK(FolderLock(folder.path()).held());
  CHECK(folder.files() == 1);
  fs::create_directory(name);
  CHECK(error_of([&] { const FolderLock lock(folder.path()); }) ==
        fmt::format("[write] cannot make the lock '{}': Is a directory. Choose another path.",
                    name.string()));
}

TEST_CASE("folder lock: that of another user is in use while he lives, and removed after that") {
  const TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::all);
  const auto other = [&] {  // who may read the lock, and write into the folder
    constexpr uid_t kNobody = 65534;
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) {
        ::_exit(3);
      }
      const std::string error = error_of([&] { const FolderLock lock(folder.path()); });
      ::_exit(error == "no error" ? 0 : error.find("in use by") != std::string::npos ? 1 : 2);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WEXITSTATUS(status);
  };
  if (other() == 3) {
    MESSAGE("skipped: only root can be another user");
    return;
  }
  {
    const FolderLock lock(folder.path());
    fs::permissions(folder / FolderLock::kName, fs::perms(0644));
    CHECK(other() == 1);
  }
  std::ofstream(folder / FolderLock::kName) << "1\n";
  fs::permissions(folder / FolderLock::kName, fs::perms(0644));
  CHECK(other() == 0);
  CHECK(folder.files() == 0);
}

TEST_CASE("folder lock: of many that try at once one has it") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "holders", "");
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(::fork());
    REQUIRE(children.back() >= 0);
    if (children.back() != 0) continue;
    // With the lock, nobody else makes or removes the mark.
    int held = 0;
    for (int round = 0; round < 400; ++round) {
      try {
        const FolderLock lock(folder.path());
        const int mark = ::open((folder / "mark").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (mark < 0) ::_exit(1);
        ::close(mark);
        if (::unlink((folder / "mark").c_str()) != 0) ::_exit(1);
        ++held;
      } catch (const Error&) {
      }
    }
    ::_exit(held > 0 ? 0 : 2);
  }
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) != 1);
  }
  CHECK(folder.files() == 1);
}

}  // namespace
}  // namespace moegrad
