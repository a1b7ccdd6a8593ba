#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <boost/context/fiber.hpp>

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
  bool is_own(const void* at) const;  // on the stack of the worker that runs
  // Nobody will switch to them again; their stacks are for others.
  void abandon();

 private:
  struct Worker {
    boost::context::fiber suspended;
    void* fake_stack = nullptr;  // for the sanitizer, with where the stack lies
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

}  // namespace cuda_emulator
