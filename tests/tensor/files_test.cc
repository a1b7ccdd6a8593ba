#include "tensor/files.h"

#include <array>
#include <csignal>
#include <exception>
#include <fstream>
#include <functional>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/folders.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

using test::error_of;
using test::TemporaryFolder;

TEST_CASE("files: what is written is read, also where a file is replaced") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a";
  for (const std::string& bytes : {std::string("text"), std::string(), std::string("\0\xff\n", 3),
                                   std::string(300'000, 'x')}) {
    write_file_atomic(path, bytes);
    CHECK(read_file(path) == bytes);
    CHECK(folder.files() == 1);
  }
  const std::vector<std::string_view> chunks = {"one", "", " two"};
  write_file_atomic(path, chunks);
  CHECK(read_file(path) == "one two");
}

TEST_CASE("files: a relative path without a folder") {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder / "");
  write_file_atomic("a", "text");
  const std::string bytes = read_file("a");
  fs::current_path(before);
  CHECK(bytes == "text");
}

TEST_CASE("files: replacing keeps the permissions and symbolic links") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "old");
  fs::permissions(folder / "a", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("a", folder / "link");
  write_file_atomic(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "a") == "new");
  CHECK(fs::status(folder / "a").permissions() == (fs::perms::owner_read | fs::perms::owner_write));
}

TEST_CASE("files: a part of a file, and one that ends too early") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", "0123456789");
  const InputFile file(folder / "a");
  CHECK(file.size() == 10);
  std::string part(4, ' ');
  file.read(3, std::as_writable_bytes(std::span(part)));
  CHECK(part == "3456");
  CHECK(error_of([&] { file.read(8, std::as_writable_bytes(std::span(part))); }) ==
        fmt::format("[read] '{}' ends at byte 10, 2 bytes too early. Was it cut short?",
                    (folder / "a").string()));
}

TEST_CASE("files: a link to nothing stays, and what it points to is made") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "sub");
  fs::create_symlink("sub/second", folder / "first");
  fs::create_symlink("../file", folder / "sub/second");
  write_file_atomic(folder / "first", "text");
  CHECK(read_file(folder / "file") == "text");
  CHECK(fs::is_symlink(folder / "first"));
  CHECK(fs::is_symlink(folder / "sub/second"));
  fs::create_symlink("no/file", folder / "dangling");
  CHECK(error_of([&] { write_file_atomic(folder / "dangling", "x"); }).find("No such file") !=
        std::string::npos);
  CHECK(fs::is_symlink(folder / "dangling"));
  fs::create_symlink("loop", folder / "loop");
  CHECK(error_of([&] { write_file_atomic(folder / "loop", "x"); }) ==
        fmt::format("[write] cannot write '{}': Too many levels of symbolic links. Choose another "
                    "path; nothing was changed.",
                    (folder / "loop").string()));
}

TEST_CASE("files: asked before the work, appended line by line, compared by path") {
  const TemporaryFolder folder;
  CHECK(error_of([&] { require_writable(folder / "a/b/file"); }).find("Create its folder first") !=
        std::string::npos);
  make_folder(folder / "a/b");
  require_writable(folder / "a/b/file");
  CHECK(files_in(folder / "a/b").empty());
  write_file_atomic(folder / "a/b/file", "one\n");
  require_writable(folder / "a/b/file");
  CHECK(error_of([&] { require_writable(folder / "a"); }) ==
        fmt::format("[write] '{}' is not a regular file. Choose another path.",
                    (folder / "a").string()));
  CHECK(error_of([&] { require_writable(folder / "a/b/file/c"); }).find("Not a directory") !=
        std::string::npos);
  {
    const AppendedFile file(folder / "a/b/file");
    file.append("two\n");
    CHECK(read_file(folder / "a/b/file") == "one\ntwo\n");
  }
  CHECK(error_of([] { AppendedFile("/dev/full").append("x"); }) ==
        "[write] cannot write '/dev/full': No space left on device. Free some space or choose "
        "another disk; its last line may be cut.");
  fs::create_symlink("a", folder / "link");
  fs::create_hard_link(folder / "a/b/file", folder / "hard");
  CHECK(same_file(folder / "a/b/file", folder / "link/b/../b/file"));
  CHECK(same_file(folder / "a/b/file", folder / "hard"));
  CHECK(same_file(folder / "new", folder / "link/../new"));
  CHECK(!same_file(folder / "new", folder / "a/new"));
  CHECK(same_file("new", "./new"));
  fs::create_symlink("link/target", folder / "dangling");
  CHECK(same_file(folder / "dangling", folder / "a/target"));
  CHECK(lies_in(folder / "dangling", folder / "link"));
  CHECK(lies_in(folder / "a/c/d", folder / "a"));
  CHECK(lies_in(folder / "a", folder / "link/"));
  CHECK(!lies_in(folder / "ab", folder / "a"));
  CHECK(!lies_in(folder / "a/../b", folder / "a"));
  fs::create_symlink("loop", folder / "loop");
  CHECK(!same_file(folder / "loop/a", folder / "loop/b"));
  for (const std::string name : {"", "new/"}) {
    const std::string expected =
        fmt::format("[write] '{}' is no name of a file. Choose another path.", name);
    CHECK(error_of([&] { require_writable(name); }) == expected);
    CHECK(error_of([&] { write_file_atomic(name, "x"); }) == expected);
  }
}

TEST_CASE("files: what is called before the new content replaces the old one") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "file", "old");
  write_file_atomic(folder / "file", "new", [&] {
    CHECK(read_file(folder / "file") == "old");
    CHECK(folder.files() == 2);
  });
  CHECK(read_file(folder / "file") == "new");
  CHECK(error_of([&] {
          write_file_atomic(folder / "file", "newer", [] { fail("test", "No."); });
        }) == "[test] No.");
  CHECK(read_file(folder / "file") == "new");
  CHECK(folder.files() == 1);
}

TEST_CASE("files: no output has the name of a lock or of a temporary file") {
  const TemporaryFolder folder;
  fs::create_symlink(".moegrad-lock", folder / "link");
  for (const char* name : {".moegrad-lock", ".1-0.moegrad-tmp", "link"}) {
    const std::string expected =
        fmt::format("[write] '{}' is the name of a lock or a temporary file. Choose another path.",
                    (folder / name).string());
    CHECK(error_of([&] { require_writable(folder / name); }) == expected);
    CHECK(error_of([&] { write_file_atomic(folder / name, "x"); }) == expected);
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("files: errors of reading name the file and the reason") {
  const TemporaryFolder folder;
  const std::string missing = (folder / "missing").string();
  CHECK(error_of([&] { read_file(missing); }) ==
        fmt::format("[read] cannot read '{}': No such file or directory. Check the path and its "
                    "permissions.",
                    missing));
  const std::string itself = (folder / "").string();
  CHECK(error_of([&] { read_file(itself); }) ==
        fmt::format("[read] '{}' is not a regular file. Give the path of a file.", itself));
  const fs::path fifo = folder / "pipe";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(error_of([&] { read_file(fifo); }) ==
        fmt::format("[read] '{}' is not a regular file. Give the path of a file.", fifo.string()));
}

TEST_CASE("files: errors of writing say what to do and leave nothing behind") {
  const TemporaryFolder folder;
  const std::string no_folder = (folder / "no/a").string();
  CHECK(error_of([&] { write_file_atomic(no_folder, "x"); }) ==
        fmt::format("[write] cannot write '{}': No such file or directory. Create its folder "
                    "first; nothing was changed.",
                    no_folder));
  write_file_atomic(folder / "file", "old");
  const std::string below_file = (folder / "file/a").string();
  CHECK(error_of([&] { write_file_atomic(below_file, "x"); }) ==
        fmt::format("[write] cannot write '{}': Not a directory. Choose another path; nothing was "
                    "changed.",
                    below_file));
  CHECK(error_of([] {
          write_file_atomic("/proc/moegrad", "x");
        }).starts_with("[write] cannot write '/proc/moegrad': "));
  // A device would be replaced by a file.
  CHECK(error_of([] { write_file_atomic("/dev/full", "x"); }) ==
        "[write] '/dev/full' is not a regular file. Choose another path.");
  const std::string long_name = (folder / std::string(300, 'n')).string();
  CHECK(error_of([&] { write_file_atomic(long_name, "x"); }) ==
        fmt::format("[write] cannot write '{}': File name too long. Choose another path; nothing "
                    "was changed.",
                    long_name));
  CHECK(folder.files() == 1);
}

TEST_CASE("files: a write that stops half-way leaves the old file") {
  const TemporaryFolder folder;
  const std::string path = (folder / "a").string();
  write_file_atomic(path, "old");
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 100'000;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  const std::string bytes(200'000, 'x');
  const std::string error = error_of([&] { write_file_atomic(path, bytes); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(error == fmt::format("[write] cannot write '{}': File too large. Free some space or choose "
                             "another disk; nothing was changed.",
                             path));
  CHECK(read_file(path) == "old");
  CHECK(folder.files() == 1);
}

// Lets this process mount what no other sees; who is not root becomes the root of its own users.
bool enter_namespace() {
  if (::unshare(CLONE_NEWNS) == 0) return true;
  const std::string user = fmt::format("0 {} 1", ::getuid());
  const std::string group = fmt::format("0 {} 1", ::getgid());
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  const auto set = [](const char* file, std::string_view text) {
    return (std::ofstream(file) << text << std::flush).good();
  };
  return set("/proc/self/uid_map", user) && set("/proc/self/setgroups", "deny") &&
         set("/proc/self/gid_map", group);
}

// Calls f in a process of its own that sees a small file system at `folder`, read-only after
// `prepare` if told so. Gives what f returns, or "skipped" where this system does not allow it.
std::string on_small_disk(const fs::path& folder, const std::function<void()>& prepare,
                          bool read_only, const std::function<std::string()>& f) {
  fs::create_directory(folder);
  std::array<int, 2> pipe = {};
  REQUIRE(::pipe(pipe.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::string answer = "skipped";
    if (enter_namespace() && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount("moegrad", folder.c_str(), "tmpfs", 0, "size=64k") == 0) {
      try {
        prepare();
        if (!read_only ||
            ::mount(nullptr, folder.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0) {
          answer = f();
        }
      } catch (const std::exception& error) {
        answer = error.what();
      }
    }
    const ssize_t sent = ::write(pipe[1], answer.data(), answer.size());
    ::_exit(sent == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  ::close(pipe[1]);
  std::string answer;
  std::array<char, 512> part = {};
  for (ssize_t got; (got = ::read(pipe[0], part.data(), part.size())) > 0;) {
    answer.append(part.data(), static_cast<std::size_t>(got));
  }
  ::close(pipe[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
  return answer;
}

TEST_CASE("files: a full disk and a read-only one") {
  const TemporaryFolder folder;
  const fs::path disk = folder / "disk";
  const auto prepare = [&] { write_file_atomic(disk / "a", "old"); };
  const auto write_too_much = [&] {
    const std::string error =
        error_of([&] { write_file_atomic(disk / "a", std::string(100'000, 'x')); });
    const auto files = std::distance(fs::directory_iterator(disk), fs::directory_iterator());
    return fmt::format("{} {} {}", error, read_file(disk / "a"), files);
  };
  const std::string full = on_small_disk(disk, prepare, false, write_too_much);
  const std::string read_only = on_small_disk(disk, prepare, true, write_too_much);
  if (full == "skipped" || read_only == "skipped") {
    MESSAGE("skipped: this system does not let a test mount a file system");
    return;
  }
  const std::string path = (disk / "a").string();
  CHECK(full ==
        fmt::format("[write] cannot write '{}': No space left on device. Free some space or "
                    "choose another disk; nothing was changed. old 1",
                    path));
  CHECK(read_only ==
        fmt::format("[write] cannot write '{}': Read-only file system. Choose a folder "
                    "that you may write to; nothing was changed. old 1",
                    path));
}

}  // namespace
}  // namespace moegrad
