#pragma once

#include <memory>
#include <new>

#include <pthread.h>

namespace moegrad {

// The T of this thread, made when it is first asked for. A thread that ends destroys it after all
// its objects, whose destructors may ask too; the main thread keeps it to the end of the program.
template <class T>
T& of_this_thread() {
  thread_local T* value = nullptr;  // has no destructor: it can be read to the end
  if (value == nullptr) {
    static const pthread_key_t key = [] {
      pthread_key_t made = 0;
      const auto destroy = [](void* object) {
        value = nullptr;
        delete static_cast<T*>(object);
      };
      if (::pthread_key_create(&made, destroy) != 0) throw std::bad_alloc();
      return made;
    }();
    auto made = std::make_unique<T>();
    if (::pthread_setspecific(key, made.get()) != 0) throw std::bad_alloc();
    value = made.release();
  }
  return *value;
}

}  // namespace moegrad
