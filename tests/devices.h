#pragma once

#include <cmath>
#include <vector>

#include "tensor/kernels.h"

// The devices of this build, and how near their numbers are to the CPU's.
namespace moegrad::test {

inline std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu, Device::guarded};
  try {
    (void)kernels(Device::cuda);
    all.push_back(Device::cuda);
  } catch (const Error&) {
    return all;  // not in this build, or not on this machine
  }
  return all;
}
inline std::vector<Device> other_devices() {
  std::vector<Device> all = devices();
  all.erase(all.begin());
  return all;
}

// True where a device has the CPU's kernels, and so its bits.
inline bool has_cpu_bits(Device device) { return device != Device::cuda; }

// The tensor that a device has computed is the CPU's: to the bit, or where its kernels are its own
// within the rounding of sums in another order, of what has been computed in `type`; integers
// always.
inline bool agrees(const Tensor& there, const Tensor& here, Device device, DType type) {
  if (has_cpu_bits(device) || !here.defined() || !is_floating(here.dtype())) {
    return there.same_bits(here);
  }
  if (there.shape() != here.shape() || there.dtype() != here.dtype()) return false;
  const std::vector<double> a = there.to_vector();
  const std::vector<double> b = here.to_vector();
  double size = 0.1;  // of the largest number; smaller ones are differences, or logarithms near 1
  for (const double x : b) {
    if (std::isfinite(x)) size = std::fmax(size, std::abs(x));
  }
  const double tolerance = (type == DType::f64 ? 1e-12 : 1e-5) * size;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ||
                      std::abs(a[i] - b[i]) <= tolerance;
    if (!same) return false;
  }
  return true;
}

inline bool agrees(const Tensor& there, const Tensor& here, Device device) {
  return agrees(there, here, device, here.dtype());
}

}  // namespace moegrad::test
