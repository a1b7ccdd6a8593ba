#include "app/stop_signal.h"

#include <csignal>

#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace moegrad {

std::atomic<int> stop_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

void stop_on_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int number) { stop_signal.store(number); };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
  struct sigaction hangup = {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
}

void stop_with(int parent) {
#ifdef __linux__
  // A signal of its own: it comes once for each thread of the parent that ends, and a second SIGTERM
  // would end this program.
  struct sigaction action = {};
  action.sa_handler = [](int) { stop_signal.store(SIGTERM); };
  ::sigaction(SIGUSR1, &action, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGUSR1);
  if (::getppid() != parent) stop_signal.store(SIGTERM);  // it ended before that call
#else
  static_cast<void>(parent);
#endif
}

}  // namespace moegrad
