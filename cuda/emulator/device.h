#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda/emulator/emulator.h"
#include "cuda/emulator/runtime.h"
#include "cuda/emulator/types.h"

// What calls of the runtime and of cuBLAS share. Not for users of the emulator.

// Something that a stream does.
using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::deque<Work> queue;  // given, not done
  std::unique_ptr<CUgraph_st> capture;
  bool invalid = false;   // the capture has met what is not allowed in one
  bool blocking = false;  // in turns with the default stream
};
struct CUevent_st {
  struct State {
    std::size_t recorded = 0, done = 0;  // times
    CUstream_st* stream = nullptr;
  };
  std::shared_ptr<State> state = std::make_shared<State>();
};

namespace cuda_emulator {

struct Device {
  CUstream_st first;  // the default stream
  std::set<CUstream_st*> streams{&first};
  std::set<CUevent_st*> events;
  std::map<std::byte*, std::size_t> pinned;
  cudaError_t last = cudaSuccess;
  std::string refusal;
  Log* log = nullptr;
};
Device& device();

// One host thread at a time is in the emulator, for as long as its kernels run.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};
// A call of the host's: kernels must not make it. It is noted.
class Call {
 public:
  explicit Call(const Event& event);
  // Returns `error` with its reason.
  template <class E>
  E refuse(E error, const std::string& why) const {
    device().refusal = "[" + name_ + "] " + why + ".";
    if constexpr (std::is_same_v<E, cudaError_t>) device().last = error;
    return error;
  }

 private:
  // Before the lock, which a kernel that is ended would keep.
  struct OnHost {
    explicit OnHost(const char* call);
  };
  std::string name_;
  OnHost on_host_;
  Lock lock_;
};
void note(const Event& event);

CUstream_st* of(cudaStream_t stream);  // null: there is none
// Of what a capture does not allow: true while any stream captures, which spoils the capture.
bool spoils_capture();
// A stream's work: captured, deferred or done.
void give(CUstream_st& s, Work work);
void finish(CUstream_st& s);
void finish_all();

}  // namespace cuda_emulator
