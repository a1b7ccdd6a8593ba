#include "tensor/kernels.h"

#include "cuda/device.h"
#include "tensor/cpu/kernels.h"
#include "tensor/guarded/kernels.h"

namespace moegrad {
namespace {

constinit CpuKernels cpu_kernels;

}  // namespace

Kernels& kernels(Device device) {
  if (device == Device::guarded) return guarded_kernels();
  if (device == Device::cuda) return cuda::kernels();
  return cpu_kernels;
}

}  // namespace moegrad
