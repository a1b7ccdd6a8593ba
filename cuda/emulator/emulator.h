#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

struct CUstream_st;

// What a test asks of the emulated device. Kernels need none of it; see kernel.h.
namespace cuda_emulator {

// True where kernels are compiled to be observed (by g++, and without a sanitizer of another kind). Else races, and reads of what nobody wrote, are not found.
bool kernels_are_observed();

// What a kernel did wrong, with the threads, the block and the line. It is thrown by the call that
// ran the kernel: the launch or, of a deferred stream, the next call that waits for it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Settings {
  // The order of blocks and of threads between two barriers, and when late copies arrive. 0: as
  // they are numbered, copies at once.
  std::uint64_t schedule = 0;
  // Work given to a stream is done when somebody waits for it, as late as a device may do it. Else
  // at once, so that a debugger stops in the kernel below the call that launched it.
  bool deferred = false;
  // The host may touch the device's memory in transfers alone; whoever does else gets SIGSEGV.
  bool guarded = true;
  // Accesses of kernels compiled to be observed are checked: bounds, races, memory nobody wrote.
  bool observed = true;
  std::size_t memory = std::size_t{80} << 30;  // bytes of the device
  std::size_t shared_memory = 227 * 1024;      // bytes that a block may ask for
  int devices = 1;
  int capability = 90;           // of the devices: 10 major + minor
  int driver = 13000;            // its version; 0: there is none
  int cublaslt = 131000;         // the version of cuBLASLt; 0: it is not loaded
  bool grouped_products = true;  // whether cuBLASLt has them
  // Its grouped products are those of 13.2: groups whose depth is 0 are left out, C and all.
  bool skips_empty_groups = false;
};
inline Settings& settings() {
  static Settings settings;
  return settings;
}

// Sets what is given for as long as it lives.
class With {
 public:
  explicit With(const Settings& s) : before_(settings()) { settings() = s; }
  ~With() { settings() = before_; }
  With(const With&) = delete;
  With& operator=(const With&) = delete;

 private:
  Settings before_;
};

// A call of the runtime, in the order in which they were made.
struct Event {
  std::string call;         // cudaMalloc
  std::string kernel = {};  // of a launch
  std::size_t blocks = 0, threads = 0, bytes = 0;
  bool waits = false;  // the host for the device
};
// While one lives, calls are noted.
class Log {
 public:
  Log();
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  const std::vector<Event>& events() const { return events_; }
  std::size_t count(const std::string& call) const;
  std::size_t waits() const;

 private:
  friend void note(const Event& event);
  std::vector<Event> events_;
  Log* outer_;
};

// Why the last call that was refused was refused, in a sentence; of cuBLAS calls too.
const std::string& refusal();

// For a pool of memory, when it hands out again what it holds: from here on in the stream nobody has
// written it, and it is poison.
void renew(void* memory, std::size_t bytes, CUstream_st* stream = nullptr);

// Lets go of all memory, streams and errors: the device as it was in the beginning. Pointers to it
// are void.
void reset();

}  // namespace cuda_emulator
