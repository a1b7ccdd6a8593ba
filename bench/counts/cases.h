#pragma once

#include <functional>
#include <vector>

namespace moegrad {

// What is counted: `call`, each time after `prepare` where there is one.
struct CountCase {
  std::function<void()> call;
  std::function<void()> prepare = nullptr;
};

struct CountEntry {
  const char* name;
  CountCase (*make)();  // sets it up
};

const std::vector<CountEntry>& count_entries();

}  // namespace moegrad
