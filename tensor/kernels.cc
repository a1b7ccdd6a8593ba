#include "tensor/kernels.h"

#include "tensor/cpu/kernels.h"
#include "tensor/guarded/kernels.h"

namespace moegrad {
namespace {

constinit CpuKernels cpu_kernels;

}  // namespace

Kernels& kernels(Device device) {
  if (device == Device::guarded) return guarded_kernels();
  if (device != Device::cpu) {
    fail("kernels", "this build has no {} device. Configure with CUDA, or use the cpu device.",
         name_of(device));
  }
  return cpu_kernels;
}

}  // namespace moegrad
