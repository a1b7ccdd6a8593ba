#include "tensor/files.h"

#include <atomic>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/error.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

std::string reason(int code) { return std::generic_category().message(code); }

[[noreturn]] void fail_reading(const fs::path& path, int code) {
  fail("read", "cannot read '{}': {}. Check the path and its permissions.", path.string(),
       reason(code));
}

[[noreturn]] void fail_writing(const fs::path& path, int code) {
  std::string_view advice = "Choose a folder that you may write to";
  switch (code) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      advice = "Free some space or choose another disk";
      break;
    case ENOENT:
      advice = "Create its folder first";
      break;
    case ENOTDIR:
    case ENAMETOOLONG:
      advice = "Choose another path";
      break;
    case EIO:
      advice = "Check the disk";
      break;
    default:
      break;
  }
  fail("write", "cannot write '{}': {}. {}; nothing was changed.", path.string(), reason(code),
       advice);
}

// A new file that disappears again, unless it is renamed.
class TemporaryFile {
 public:
  // `target` is the file that errors name.
  explicit TemporaryFile(const fs::path& target) : target_(target) {
    static std::atomic<unsigned> counter{0};
    do {
      path_ = target;
      path_.replace_filename("." + std::to_string(::getpid()) + "-" +
                             std::to_string(counter.fetch_add(1)) + ".moegrad-tmp");
      descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && (errno == EEXIST || errno == EINTR));
    if (descriptor_ < 0) fail_writing(target_, errno);
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void set_mode(mode_t mode) {
    if (::fchmod(descriptor_, mode) != 0) fail_writing(target_, errno);
  }

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(written));
      } else if (written == 0 || errno != EINTR) {
        fail_writing(target_, written == 0 ? ENOSPC : errno);
      }
    }
  }

  void rename_to_target() {
    if (::fsync(descriptor_) != 0) fail_writing(target_, errno);
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_writing(target_, errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail_writing(target_, errno);
    path_.clear();
  }

 private:
  const fs::path& target_;
  fs::path path_;
  int descriptor_ = -1;
};

// Makes a rename in the folder survive a loss of power. Some file systems cannot (EINVAL), and a
// folder that may be written to need not be readable (EACCES): there the rename has to do.
void synchronise_folder(const fs::path& path) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int code = descriptor < 0 ? errno : 0;
  if (descriptor >= 0) {
    if (::fsync(descriptor) != 0) code = errno;
    ::close(descriptor);
  }
  if (code != 0 && code != EINVAL && code != EACCES) {
    fail("write", "'{}' is written, but may not survive a loss of power: {}. Check the disk.",
         path.string(), reason(code));
  }
}

}  // namespace

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
  fs::path target = path;
  std::optional<mode_t> mode;
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0) {
    if (!S_ISREG(status.st_mode)) {
      fail("write", "'{}' is not a regular file. Choose another path.", path.string());
    }
    mode = status.st_mode & 07777U;
    target = fs::canonical(path);
  }
  TemporaryFile file(target);
  if (mode) file.set_mode(*mode);
  for (const std::string_view chunk : chunks) file.write(chunk);
  file.rename_to_target();
  synchronise_folder(target);
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  write_file_atomic(path, std::span(&bytes, 1));
}

}  // namespace moegrad
