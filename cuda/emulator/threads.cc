// What threads call, and what observes them: the doors to the block that runs.
#include "cuda/emulator/threads.h"

#include <stdexcept>

#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"
#include "cuda/emulator/scheduler.h"

namespace cuda_emulator {
namespace {

int wait_for_block(const char* name, const Here& here, bool predicate) {
  return scheduler().wait_for_block({name, here}, predicate);
}

}  // namespace

uint3 thread_index() { return scheduler().thread(); }
uint3 block_index() { return scheduler().block(); }
dim3 block_size() { return scheduler().grid().threads; }
dim3 grid_size() { return scheduler().grid().blocks; }

void* shared_array(const SharedSite* site) {
  const Inside inside;
  return scheduler().shared().array(site);
}
void* dynamic_shared() {
  const Inside inside;
  return scheduler().shared().array(nullptr);
}

void __syncthreads(Here here) {
  const Inside inside;
  wait_for_block("__syncthreads", here, false);
}
int __syncthreads_count(int predicate, Here here) {
  const Inside inside;
  return wait_for_block("__syncthreads_count", here, predicate != 0);
}
int __syncthreads_and(int predicate, Here here) {
  const Inside inside;
  return wait_for_block("__syncthreads_and", here, predicate == 0) == 0 ? 1 : 0;
}
int __syncthreads_or(int predicate, Here here) {
  const Inside inside;
  return wait_for_block("__syncthreads_or", here, predicate != 0) > 0 ? 1 : 0;
}

void __pipeline_memcpy_async(void* shared, const void* global, std::size_t bytes,
                             std::size_t zeros) {
  const Inside inside;
  const void* const code = __builtin_return_address(0);
  const auto places =
      reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || places % bytes != 0 || zeros > bytes) {
    die("__pipeline_memcpy_async of " + std::to_string(bytes) + " bytes, " + std::to_string(zeros) +
            " of them zero, to an address that is " +
            std::to_string(reinterpret_cast<std::uintptr_t>(shared) % 16) +
            " above a multiple of 16, from one " +
            std::to_string(reinterpret_cast<std::uintptr_t>(global) % 16) +
            " above. It copies 4, 8 or 16 bytes between addresses that are multiples of that",
        observer::line_of(code));
  }
  if (shared_extent(shared, bytes).bytes == 0 && memory::holds(shared)) {
    die("__pipeline_memcpy_async to global memory. It copies from global to shared memory",
        observer::line_of(code));
  }
  scheduler().copies().begin(
      scheduler().number(),
      {static_cast<std::byte*>(shared), static_cast<const std::byte*>(global), bytes, zeros},
      scheduler().early(), code);
}
void __pipeline_commit() {
  const Inside inside;
  scheduler().copies().commit(scheduler().number());
}
void __pipeline_wait_prior(unsigned groups) {
  const Inside inside;
  scheduler().copies().wait(scheduler().number(), groups, __builtin_return_address(0));
}

// --- block.h

void run(const Grid& grid) {
  if (kernels_are_observed() && !grid.observed) {
    throw Error("[" + grid.kernel +
                "] is not compiled to be observed, as other kernels of this program are. Give its "
                "file to cuda_emulator_kernels() too.");
  }
  const memory::Open open;
  scheduler().run(grid);
}
bool in_kernel() { return scheduler().running(); }
void die(const std::string& what, const std::string& line) { scheduler().die(what, line); }

const Lanes& exchange(const char* what, unsigned mask, std::uint64_t value, const Here& here,
                      void (*together)(const Lanes&)) {
  return scheduler().wait_for_warp({what, here}, mask, value, together);
}
unsigned lane() { return static_cast<unsigned>(scheduler().number() % 32); }

std::string block_of(std::uint32_t interval) { return scheduler().block_of(interval); }
std::string thread_of(std::uint32_t number) {
  return "thread " + text(index_of(number, scheduler().grid().threads));
}
std::string where() {
  return scheduler().grid().kernel + ", block " + text(scheduler().block()) + ", thread " +
         text(scheduler().thread());
}
bool is_own(const void* at) { return scheduler().is_own(at); }
Extent shared_extent(const void* at, std::size_t bytes) {
  const SharedMemory::Array* const array = scheduler().shared().whole(at, bytes);
  if (array == nullptr) return {};
  return {reinterpret_cast<std::uintptr_t>(array->begin), array->bytes};
}
std::string shared_place(const void* at) { return scheduler().shared().place_of(at); }

}  // namespace cuda_emulator
