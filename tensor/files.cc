#include "tensor/files.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/error.h"
#include "tensor/folders.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_reading(const fs::path& path, int code) {
  fail("read", "cannot read '{}': {}. Check the path and its permissions.", path.string(),
       system_reason(code));
}

[[noreturn]] void fail_writing(const fs::path& path, int code) {
  fail("write", "cannot write '{}': {}. {}; nothing was changed.", path.string(),
       system_reason(code), writing_advice(code));
}

// 0, or why it cannot.
int write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      return written == 0 ? ENOSPC : errno;
    }
  }
  return 0;
}

// A new file that disappears again, unless it is renamed. It is locked while it is written: one
// that is not locked was left by a process that was killed.
class TemporaryFile {
 public:
  // `target` is the file that errors name.
  explicit TemporaryFile(const fs::path& target) : target_(target) {
    static std::atomic<unsigned> counter{0};
    while (true) {
      path_ = target;
      path_.replace_filename("." + std::to_string(::getpid()) + "-" +
                             std::to_string(counter.fetch_add(1)) + std::string(kTemporarySuffix));
      descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ < 0) {
        if (errno == EEXIST || errno == EINTR) continue;
        fail_writing(target_, errno);
      }
      // Another process may have taken it for a left one just before the lock, and removed it.
      while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
      }
      struct stat status = {};
      if (::fstat(descriptor_, &status) != 0 || status.st_nlink > 0) break;
      ::close(descriptor_);
    }
  }
  ~TemporaryFile() {
    if (!path_.empty()) ::unlink(path_.c_str());
    ::close(descriptor_);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void set_mode(mode_t mode) {
    if (::fchmod(descriptor_, mode) != 0) fail_writing(target_, errno);
  }

  void write(std::string_view bytes) {
    if (const int code = write_all(descriptor_, bytes); code != 0) fail_writing(target_, code);
  }

  void synchronise() const {
    if (::fsync(descriptor_) != 0) fail_writing(target_, errno);
  }

  void rename_to_target() {
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail_writing(target_, errno);
    path_.clear();
  }

 private:
  const fs::path& target_;
  fs::path path_;
  int descriptor_ = -1;
};

// What a file is written to: a path, the mode of the file that is there already.
struct WriteTarget {
  fs::path path;
  std::optional<mode_t> mode;
};

// Where the symbolic links end that the path is the first of, also where nothing is there yet;
// nothing where they do not end.
std::optional<fs::path> end_of_links(fs::path path) {
  constexpr int kMaxLinks = 40;
  for (int links = 0; links <= kMaxLinks; ++links) {
    std::error_code none;
    const fs::path link = fs::read_symlink(path, none);
    if (none) return path;
    path = path.parent_path() / link;
  }
  return std::nullopt;
}

WriteTarget target_of(const fs::path& path) {
  if (!path.has_filename()) {
    fail("write", "'{}' is no name of a file. Choose another path.", path.string());
  }
  WriteTarget target{path, {}};
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0) {
    if (!S_ISREG(status.st_mode)) {
      fail("write", "'{}' is not a regular file. Choose another path.", path.string());
    }
    target.mode = status.st_mode & 07777U;
  } else if (errno != ENOENT) {
    fail_writing(path, errno);
  }
  const std::optional<fs::path> end = end_of_links(path);
  if (!end) fail_writing(path, ELOOP);
  target.path = *end;
  if (is_reserved(target.path)) {
    fail("write", "'{}' is the name of a lock or a temporary file. Choose another path.",
         path.string());
  }
  return target;
}

// Makes a rename in the folder survive a loss of power. Some file systems cannot (EINVAL), and a
// folder that may be written to need not be readable (EACCES): there the rename has to do.
void synchronise_folder(const fs::path& path) {
  const int descriptor = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int code = descriptor < 0 ? errno : 0;
  if (descriptor >= 0) {
    if (::fsync(descriptor) != 0) code = errno;
    ::close(descriptor);
  }
  if (code != 0 && code != EINVAL && code != EACCES) {
    fail("write", "'{}' is written, but may not survive a loss of power: {}. Check the disk.",
         path.string(), system_reason(code));
  }
}

void replace_file(const fs::path& path, std::span<const std::string_view> chunks,
                  const std::function<void()>& before) {
  const WriteTarget target = target_of(path);
  remove_leftovers(folder_of(target.path));
  TemporaryFile file(target.path);
  if (target.mode) file.set_mode(*target.mode);
  for (const std::string_view chunk : chunks) file.write(chunk);
  file.synchronise();
  before();
  file.rename_to_target();
  synchronise_folder(target.path);
}

// Without links and dots; nothing where the system does not tell.
std::optional<fs::path> canonical_path(const fs::path& path) {
  std::error_code error;
  const std::optional<fs::path> end = end_of_links(path);
  if (!end) return std::nullopt;
  const fs::path absolute = fs::absolute(*end, error);
  if (error) return std::nullopt;
  fs::path out = fs::weakly_canonical(absolute, error);
  if (error) return std::nullopt;
  return out;
}

}  // namespace

std::string system_reason(int code) { return std::generic_category().message(code); }

std::string_view writing_advice(int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "Free some space or choose another disk";
    case ENOENT:
      return "Create its folder first";
    case EEXIST:
    case ELOOP:
    case ENOTDIR:
    case EISDIR:
    case ENAMETOOLONG:
      return "Choose another path";
    case EIO:
      return "Check the disk";
    default:
      return "Choose a folder that you may write to";
  }
}

// O_NONBLOCK: opening a pipe by mistake is an error instead of a wait for its writer.
InputFile::InputFile(fs::path path)
    : path_(std::move(path)),
      descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) fail_reading(path_, errno);
  struct stat status = {};
  const int code = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (code != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    if (code != 0) fail_reading(path_, code);
    fail("read", "'{}' is not a regular file. Give the path of a file.", path_.string());
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got > 0) {
      out = out.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    } else if (got == 0) {
      fail("read", "'{}' ends at byte {}, {} bytes too early. Was it cut short?", path_.string(),
           offset, out.size());
    } else if (errno != EINTR) {
      fail_reading(path_, errno);
    }
  }
}

std::string read_file(const fs::path& path) {
  const InputFile file(path);
  std::string bytes(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

void write_file_atomic(const fs::path& path, std::span<const std::string_view> chunks) {
  replace_file(path, chunks, [] {});
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  replace_file(path, std::span(&bytes, 1), [] {});
}

void write_file_atomic(const fs::path& path, std::string_view bytes,
                       const std::function<void()>& before) {
  replace_file(path, std::span(&bytes, 1), before);
}

void require_writable(const fs::path& path) {
  const WriteTarget target = target_of(path);
  const TemporaryFile trial(target.path);
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const std::optional<fs::path> first = canonical_path(a);
  return first && first == canonical_path(b);
}

bool lies_in(const fs::path& path, const fs::path& folder) {
  if (same_file(path, folder)) return true;
  const std::optional<fs::path> file = canonical_path(path);
  const std::optional<fs::path> above = canonical_path(folder);
  if (!file || !above) return false;
  const auto [rest, own] = std::mismatch(above->begin(), above->end(), file->begin(), file->end());
  return rest == above->end();
}

AppendedFile::AppendedFile(fs::path path)
    : path_(std::move(path)),
      descriptor_(
          ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666)) {
  if (descriptor_ < 0) fail_writing(path_, errno);
}

AppendedFile::~AppendedFile() { ::close(descriptor_); }

void AppendedFile::append(std::string_view bytes) const {
  if (const int code = write_all(descriptor_, bytes); code != 0) {
    fail("write", "cannot write '{}': {}. {}; its last line may be cut.", path_.string(),
         system_reason(code), writing_advice(code));
  }
}

}  // namespace moegrad
