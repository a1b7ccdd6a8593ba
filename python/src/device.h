#pragma once

#include <string>
#include <vector>

#include "tensor/kernels.h"

namespace moegrad::python {

// The device of that name. Errors: no such name; one that this build or this machine has not.
inline Device device_of(const std::string& name) {
  if (name == "cpu") return Device::cpu;
  if (name != "cuda") fail("device", "there is no device '{}'. Use 'cpu' or 'cuda'.", name);
#ifdef MOEGRAD_WITHOUT_CUDA
  fail("device",
       "this package is built without CUDA. Build it where nvcc 13 is: pip install . -C "
       "cmake.define.MOEGRAD_CUDA=toolkit, or use device='cpu'.");
#else
  (void)kernels(Device::cuda);
  return Device::cuda;
#endif
}

inline std::vector<std::string> devices() {
  std::vector<std::string> names = {"cpu"};
  try {
    (void)device_of("cuda");
    names.emplace_back("cuda");
  } catch (const Error&) {  // not in this build, or not on this machine
    return names;
  }
  return names;
}

}  // namespace moegrad::python
