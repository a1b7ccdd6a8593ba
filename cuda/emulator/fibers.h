#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <boost/context/fiber.hpp>

#include "cuda/emulator/address_sanitizer.h"

// Stacks for the threads of a block. Each has a worker: a fiber that runs one thread after the
// other, each to its end, so that only threads that wait at a barrier need a stack of their own.
namespace cuda_emulator {

class Fibers {
 public:
  static constexpr int kMost = 1024;
  static constexpr int kHost = -1;  // the stack of who launched

  // `work` is a worker's life, and never returns.
  explicit Fibers(std::function<void(int worker)> work) : work_(std::move(work)) {}

  int idle();  // a worker with nothing to do
  void rest(int worker) { idle_.push_back(worker); }
  // Returns when somebody switches back.
  void switch_to(int worker);
  int running() const { return running_; }
  // It will run soon: what it needs first of its stack is fetched.
  void prefetch(int worker) {
    if (worker == kHost) return;
    const char* const place = static_cast<const char*>(at(worker).left_at);
    for (int line = -2; line < 3; ++line) __builtin_prefetch(place + 64 * line, 1);
  }
  bool is_own(const void* place) const;  // on the stack of the worker that runs
  // Nobody will switch to them again; their stacks are for others.
  void abandon();

 private:
  struct Worker {
    boost::context::fiber suspended;
    const void* left_at = nullptr;  // the place on its stack
    void* fake_stack = nullptr;     // for the sanitizer, with where the stack lies
    const void* stack_bottom = nullptr;
    std::size_t stack_bytes = 0;
  };
  struct StackOf;

  boost::context::stack_context stack_of(int worker);
  Worker& at(int worker) {
    return worker == kHost ? host_ : *workers_[static_cast<std::size_t>(worker)];
  }

  std::function<void(int)> work_;
  std::byte* stacks_ = nullptr;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<int> idle_;
  std::vector<boost::context::fiber> abandoned_;
  int running_ = kHost;
  int before_ = kHost;  // who switched to it
  Worker host_;
};

inline void Fibers::switch_to(int worker) {
  Worker& me = at(running_);
  Worker& to = at(worker);
  me.left_at = __builtin_frame_address(0);
  before_ = running_;
  running_ = worker;
  begin_switch(&me.fake_stack, to.stack_bottom, to.stack_bytes);
  boost::context::fiber from = std::move(to.suspended).resume();
  Worker& who = at(before_);
  who.suspended = std::move(from);
  finish_switch(me.fake_stack, &who.stack_bottom, &who.stack_bytes);
}

}  // namespace cuda_emulator
