#include "tensor/put.h"

#include <cerrno>

#include <poll.h>
#include <unistd.h>

namespace moegrad {

void put_text(std::FILE* out, std::string_view text) {
  const int descriptor = ::fileno(out);
  int code = std::fflush(out) == 0 ? 0 : errno;  // what others have written to it comes first
  while (code == 0 && !text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd room = {descriptor, POLLOUT, 0};
      ::poll(&room, 1, -1);
    } else if (errno != EINTR) {
      code = errno;
    }
  }
  int none = 0;
  if (code != 0) lost_text.compare_exchange_strong(none, code);
}

}  // namespace moegrad
