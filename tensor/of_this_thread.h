#pragma once

#include <memory>
#include <utility>

namespace moegrad {

// The T of this thread: made when it is first asked for, destroyed with the thread. A destructor
// that runs still later and asks gets another one, which nobody destroys.
template <class T>
T& of_this_thread() {
  thread_local T* value = nullptr;  // has no destructor: it can be read to the end
  if (value == nullptr) {
    auto made = std::make_unique<T>();
    struct Owner {
      ~Owner() { delete std::exchange(value, nullptr); }
    };
    thread_local const Owner owner;
    value = made.release();
  }
  return *value;
}

}  // namespace moegrad
