#include "cuda/emulator/copies.h"

#include <cstring>
#include <utility>

#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {
namespace {

using observer::Access;

void look(const void* at, std::size_t bytes, Access access, const void* code) {
  if (observer::observing()) observer::touch(at, bytes, access, code);
}

void bring(const Copies::Copy& copy) {
  std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
  std::memset(copy.to + (copy.bytes - copy.zeros), 0, copy.zeros);
}

}  // namespace

void Copies::begin_block(int threads) {
  threads_ = threads;
  for (Queue& queue : queues_) {
    for (const Copy& copy : queue.open) observer::arrived(copy.to, copy.bytes);
    for (const auto& group : queue.groups) {
      for (const Copy& copy : group) observer::arrived(copy.to, copy.bytes);
    }
  }
  queues_.clear();
}

void Copies::begin(int thread, Copy copy, bool now, const void* code) {
  if (queues_.empty()) queues_.resize(static_cast<std::size_t>(threads_));
  look(copy.from, copy.bytes - copy.zeros, Access::read, code);
  look(copy.to, copy.bytes, Access::write, code);
  if (observer::observing()) observer::expect(copy.to, copy.bytes);
  if (now) {
    bring(copy);
  } else {
    memory::poison(copy.to, copy.bytes);
  }
  copy.done = now;
  queues_[static_cast<std::size_t>(thread)].open.push_back(copy);
}

void Copies::commit(int thread) {
  if (queues_.empty()) queues_.resize(static_cast<std::size_t>(threads_));
  Queue& queue = queues_[static_cast<std::size_t>(thread)];
  queue.groups.push_back(std::exchange(queue.open, {}));
}

void Copies::wait(int thread, std::size_t left, const void* code) {
  if (queues_.empty()) return;
  auto& groups = queues_[static_cast<std::size_t>(thread)].groups;
  if (groups.size() <= left) return;
  const auto end = groups.end() - static_cast<std::ptrdiff_t>(left);
  for (auto group = groups.begin(); group != end; ++group) {
    for (const Copy& copy : *group) {
      look(copy.from, copy.bytes - copy.zeros, Access::read, code);
      if (!copy.done) bring(copy);
      observer::arrived(copy.to, copy.bytes);
      look(copy.to, copy.bytes, Access::write, code);
    }
  }
  groups.erase(groups.begin(), end);
}

}  // namespace cuda_emulator
