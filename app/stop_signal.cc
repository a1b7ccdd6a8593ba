#include "app/stop_signal.h"

#include <csignal>

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

}  // namespace moegrad
