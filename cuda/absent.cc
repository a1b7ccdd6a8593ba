#include "cuda/device.h"

namespace moegrad::cuda {
namespace {

[[noreturn]] void refuse() {
  fail("cuda", "this build has no CUDA. Configure with -DMOEGRAD_CUDA=toolkit, or use the cpu.");
}

}  // namespace

Kernels& kernels() { refuse(); }
std::byte* take(std::size_t) { refuse(); }
void give(std::byte*) {}
void set_bytes(std::byte*, unsigned char, std::size_t) {}
bool have_value(const std::byte*, unsigned char, std::size_t) { return true; }
void renew(std::byte*, std::size_t) {}
std::string memory_text() { return "no device"; }
void check_faults() {}
void begin_recording(const Rng&) { refuse(); }
Graph* end_recording() { refuse(); }
void abandon_recording() {}
bool recording() { return false; }
void replay(const Graph&, const Rng&) {}
void drop(Graph*) {}
void set_schedule(std::uint64_t) {}

}  // namespace moegrad::cuda
