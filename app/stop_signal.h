#pragma once

#include <atomic>

namespace moegrad {

// The number of the signal that asked this program to stop; 0: none.
extern std::atomic<int> stop_signal;
// The first SIGINT, SIGTERM or SIGHUP asks to stop, the second ends the program at once. What outlives
// its terminal, because SIGHUP is ignored (nohup), goes on.
void stop_on_signals();
// Asks to stop, as SIGTERM does, when the process that started this one has ended, in whatever way (on
// Linux): a run of a study outlives it by a step or an evaluation at most.
void stop_with(int parent);

}  // namespace moegrad
