#include "tensor/kernels.h"

#include "tensor/cpu_kernels.h"

namespace moegrad {

Kernels& kernels(Device device) {
  static CpuKernels cpu;
  if (device != Device::cpu) {
    fail("kernels", "this build has no {} device. Configure with CUDA, or use the cpu device.",
         name_of(device));
  }
  return cpu;
}

}  // namespace moegrad
