#include "tensor/folders.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/error.h"
#include "tensor/files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_folder(std::string_view what, const fs::path& path, int code) {
  fail("write", "cannot {} '{}': {}. {}.", what, path.string(), system_reason(code),
       writing_advice(code));
}

// False where there is nothing.
bool find_status(const fs::path& path, struct stat& status) {
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  fail("read", "cannot read '{}': {}. Check the path and its permissions.", path.string(),
       system_reason(errno));
}

bool is_temporary(const std::string& name) {
  return name.starts_with('.') && name.ends_with(kTemporarySuffix) &&
         name.find_first_not_of("0123456789-", 1) == name.size() - kTemporarySuffix.size();
}

// The number that the holder of a lock has written into it, which it does just after it took it; 0
// where it could not.
pid_t holder(int descriptor) {
  pid_t process = 0;
  for (int tries = 0; tries < 50; ++tries) {
    std::array<char, 16> text = {};
    const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
    if (got > 0 && std::from_chars(text.data(), text.data() + got, process).ec == std::errc() &&
        (::kill(process, 0) == 0 || errno == EPERM)) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return process;
}

}  // namespace

bool path_exists(const fs::path& path) {
  struct stat status = {};
  return find_status(path, status);
}

bool folder_exists(const fs::path& path) {
  struct stat status = {};
  return find_status(path, status) && S_ISDIR(status.st_mode);
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_folder("make the folder", path, error.value());
}

OutputFolder::OutputFolder(fs::path path) : path_(std::move(path)) {
  for (fs::path part = path_; !part.empty() && !path_exists(part); part = part.parent_path()) {
    made_.push_back(part);
  }
  try {
    make_folder(path_);
  } catch (...) {
    remove_empty();
    throw;
  }
}

OutputFolder::~OutputFolder() { remove_empty(); }

void OutputFolder::remove_empty() const {
  // Others fail: what is not empty, and names of it by "." and "..".
  for (const fs::path& folder : made_) ::rmdir(folder.c_str());
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    files.push_back(entry->path());
  }
  if (error && error.value() != ENOENT) {
    fail("read", "cannot read the folder '{}': {}. Check the path and its permissions.",
         folder.string(), system_reason(error.value()));
  }
  return files;
}

void remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) {
    fail_folder("remove", path, errno);
  }
}

void remove_leftovers(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const fs::path file = entry->path();
    if (!is_temporary(file.filename().string())) continue;
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(file.c_str());
    ::close(descriptor);
  }
}

bool is_reserved(const fs::path& file) {
  const std::string name = file.filename().string();
  return name == FolderLock::kName || is_temporary(name);
}

bool is_in_use(const fs::path& folder) {
  const fs::path file = folder / FolderLock::kName;
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool held = ::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(descriptor);
  return held;
}

FolderLock::FolderLock(const fs::path& folder) : file_(folder / kName) {
  while (true) {
    constexpr int kFlags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    descriptor_ = ::open(file_.c_str(), O_RDWR | O_CREAT | kFlags, 0666);
    int code = descriptor_ < 0 ? errno : 0;
    // Perhaps the lock of another user, who may be dead: it need not be written to be removed.
    const bool foreign = code == EACCES;
    if (foreign) descriptor_ = ::open(file_.c_str(), O_RDONLY | kFlags);
    if (descriptor_ < 0) fail_folder("make the lock", file_, code);
    // A file system without locks gives another error: there everyone has it.
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      const pid_t process = holder(descriptor_);
      ::close(descriptor_);
      fail("lock",
           "the folder '{}' is in use by {}. Wait until it has ended, or choose another folder "
           "with --out.",
           folder.string(),
           process > 0 ? fmt::format("process {}", process) : std::string("another process"));
    }
    // Its last holder may have removed the file just before it was locked.
    code = 0;
    if (held()) {
      struct stat status = {};
      const bool known = ::fstat(descriptor_, &status) == 0;
      if (known && !foreign && S_ISREG(status.st_mode) && status.st_nlink <= 1) break;
      code = ::unlink(file_.c_str()) == 0 ? 0 : errno;
    }
    ::close(descriptor_);
    if (code != 0 && code != ENOENT) fail_folder("remove the lock", file_, code);
  }
  // Only for the message to others: a full disk is no reason to stop.
  const std::string number = std::to_string(::getpid()) + "\n";
  const bool written = ::ftruncate(descriptor_, 0) == 0 &&
                       ::pwrite(descriptor_, number.data(), number.size(), 0) > 0;
  static_cast<void>(written);
}

FolderLock::~FolderLock() {
  if (held()) ::unlink(file_.c_str());
  ::close(descriptor_);
}

bool FolderLock::held() const {
  struct stat own = {};
  struct stat there = {};
  return ::fstat(descriptor_, &own) == 0 && ::lstat(file_.c_str(), &there) == 0 &&
         own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

void FolderLock::require_held() const {
  if (held()) return;
  fail("lock",
       "'{}' is not this process's any more: the folder was removed or taken by another run. "
       "Start again in a folder of its own.",
       file_.string());
}

}  // namespace moegrad
