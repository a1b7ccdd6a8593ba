#pragma once

// What the tests of kernels share: a kernel that is wrong must be caught, whatever the order of its
// threads; beside it stands the right one, which must pass.

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/kernel.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/runtime.h"

namespace cuda_emulator::tests {

inline constexpr std::uint64_t kSchedules = 12;  // the first is the order of the numbers

// Calls f(schedule) with each.
template <class F>
void over_schedules(F&& f) {
  for (std::uint64_t schedule = 0; schedule < kSchedules; ++schedule) {
    CAPTURE(schedule);
    Settings changed = settings();
    changed.schedule = schedule;
    const With with(changed);
    f(schedule);
  }
}

// What the emulator says to f(); empty: nothing.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

inline bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

template <class F>
void check_passes(F&& f) {
  over_schedules([&](std::uint64_t) { CHECK(error_of(f) == ""); });
}

// Each schedule finds an error with all of these words.
template <class F>
void check_caught(F&& f, const std::vector<std::string>& words) {
  over_schedules([&](std::uint64_t) {
    const std::string error = error_of(f);
    CAPTURE(error);
    CHECK(error.starts_with("["));
    CHECK(error.ends_with("."));
    for (const std::string& word : words) {
      CAPTURE(word);
      CHECK(holds(error, word));
    }
  });
}

struct Child {
  int signal = 0;    // that ended it; 0: none
  int status = 0;    // that it returned
  std::string text;  // that it wrote
};
// Runs f() in a process of its own.
template <class F>
Child in_child(F&& f) {
  int pipes[2];
  REQUIRE(pipe(pipes) == 0);
  std::fflush(nullptr);
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipes[1], 1);
    dup2(pipes[1], 2);
    close(pipes[0]);
    close(pipes[1]);
    f();
    _exit(0);
  }
  close(pipes[1]);
  Child result;
  char buffer[512];
  for (ssize_t n = 0; (n = read(pipes[0], buffer, sizeof buffer)) > 0;) {
    result.text.append(buffer, static_cast<std::size_t>(n));
  }
  close(pipes[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

inline constexpr bool kAddressSanitizer =
#ifdef CUDA_EMULATOR_ASAN
    true;
#else
    false;
#endif

// An access that is out of bounds: the emulator's error, or the address sanitizer's where that one
// looks on.
template <class F>
void check_outside(F&& f, const std::vector<std::string>& words) {
  if (kernels_are_observed()) return check_caught(f, words);
  if (!kAddressSanitizer) return;
  const Child child = in_child(f);
  CAPTURE(child.text);
  CHECK((child.signal != 0 || child.status != 0));
  CHECK((holds(child.text, "Sanitizer") || holds(child.text, "runtime error")));
}

// Ends a test where no kernel is observed.
#define NEEDS_OBSERVER                                          \
  if (!::cuda_emulator::kernels_are_observed()) {               \
    MESSAGE("skipped: kernels of this build are not observed"); \
    return;                                                     \
  }

// An array of the device.
template <class T>
class Array {
 public:
  explicit Array(std::size_t size) : size_(size) {
    REQUIRE(cudaMalloc(&data_, size * sizeof(T)) == cudaSuccess);
  }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) ==
            cudaSuccess);
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  operator T*() const { return data_; }  // NOLINT: it is passed like a pointer
  template <class U>
  U* as() const {
    return reinterpret_cast<U*>(data_);
  }
  std::vector<T> values() const {
    std::vector<T> out(size_);
    REQUIRE(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

template <class T>
std::vector<T> counted(std::size_t n) {
  std::vector<T> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<T>(i);
  return values;
}

}  // namespace cuda_emulator::tests
