#include "cuda/emulator/fibers.h"

#include <stdexcept>
#include <utility>

#include <sys/mman.h>

#include "cuda/emulator/address_sanitizer.h"

namespace cuda_emulator {
namespace {

using boost::context::fiber;

constexpr std::size_t kStack = std::size_t{256} << 10;
constexpr std::size_t kPage = 4096;

}  // namespace

struct Fibers::StackOf {
  Fibers* fibers;
  int worker;
  boost::context::stack_context allocate() const { return fibers->stack_of(worker); }
  void deallocate(boost::context::stack_context&) const {}
};

boost::context::stack_context Fibers::stack_of(int worker) {
  if (stacks_ == nullptr) {
    void* const memory = mmap(nullptr, kMost * kStack, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("[emulator] no addresses for stacks");
    stacks_ = static_cast<std::byte*>(memory);
  }
  std::byte* const begin = stacks_ + static_cast<std::size_t>(worker) * kStack;
  mprotect(begin, kPage, PROT_NONE);
  allow(begin + kPage, kStack - kPage);
  boost::context::stack_context context;
  // Not all at one place of their pages: they would take each other's place in the caches.
  const std::size_t shift = static_cast<std::size_t>(worker) % 61 * 832;
  context.size = kStack - kPage - shift;
  context.sp = begin + kStack - shift;
  return context;
}

int Fibers::idle() {
  if (!idle_.empty()) {
    const int worker = idle_.back();
    idle_.pop_back();
    return worker;
  }
  const auto worker = static_cast<int>(workers_.size());
  workers_.push_back(std::make_unique<Worker>());
  const boost::context::stack_context stack = stack_of(worker);
  workers_.back()->stack_bytes = stack.size;
  workers_.back()->stack_bottom = static_cast<std::byte*>(stack.sp) - stack.size;
  workers_.back()->suspended =
      fiber(std::allocator_arg, StackOf{this, worker}, [this, worker](fiber&& from) {
        Worker& who = at(before_);
        who.suspended = std::move(from);
        finish_switch(nullptr, &who.stack_bottom, &who.stack_bytes);
        work_(worker);
        return fiber();  // never
      });
  return worker;
}

bool Fibers::is_own(const void* place) const {
  const std::byte* const stack = stacks_ + static_cast<std::size_t>(running_) * kStack;
  return static_cast<const std::byte*>(place) >= stack &&
         static_cast<const std::byte*>(place) < stack + kStack;
}

// Kept, not destroyed: a fiber that is destroyed unwinds its stack, which is another's by then.
void Fibers::abandon() {
  for (std::unique_ptr<Worker>& worker : workers_) {
    if (worker->suspended) abandoned_.push_back(std::move(worker->suspended));
  }
  workers_.clear();
  idle_.clear();
}

}  // namespace cuda_emulator
