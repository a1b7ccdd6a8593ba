#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/kernels.h"
#include "tensor/threads.h"

// What the tests of kernels share. A kernel is run on fresh, poisoned outputs with guarded ends, at
// one, two and three threads, and compared with a plain loop in double precision.
namespace moegrad::test {

using Values = std::vector<double>;

// A fresh tensor holds NaN and a write past an end aborts, for as long as this lives.
class CheckedPool {
 public:
  CheckedPool() : before_(pool::set_checked(true)) {}
  ~CheckedPool() { pool::set_checked(before_); }
  CheckedPool(const CheckedPool&) = delete;
  CheckedPool& operator=(const CheckedPool&) = delete;

 private:
  bool before_;
};

inline Kernels& cpu_kernels() { return kernels(Device::cpu); }

// Those of this build.
inline std::vector<Device> devices() { return {Device::cpu, Device::guarded}; }

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// Uniform numbers in [low, high], rounded to the dtype.
inline Tensor random(const Shape& shape, DType dtype, std::uint64_t seed, double low = -2.0,
                     double high = 2.0) {
  Tensor t = Tensor::empty(shape, dtype, Device::cpu);
  const Rng rng{seed, 77};
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const double value = low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i));
    if (dtype == DType::f32) t.write<float>()[i] = static_cast<float>(value);
    if (dtype == DType::f64) t.write<double>()[i] = value;
  }
  return t;
}

// Uniform integers in [low, limit).
inline Tensor random_integers(const Shape& shape, std::uint64_t seed, std::int64_t low,
                              std::int64_t limit) {
  Tensor t = Tensor::empty(shape, DType::i32, Device::cpu);
  const Rng rng{seed, 78};
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const auto span = static_cast<std::uint64_t>(limit - low);
    t.write<std::int32_t>()[i] = static_cast<std::int32_t>(
        low + static_cast<std::int64_t>(rng.bits(static_cast<std::uint64_t>(i)) % span));
  }
  return t;
}

// A floating tensor of these values.
inline Tensor tensor_of(const Shape& shape, DType dtype, const Values& values) {
  return Tensor::of(shape, values).to(dtype);
}

inline std::vector<DType> floating() { return {DType::f32, DType::f64}; }

// |got - want| <= tolerance (1 + |want|), NaN where NaN; `slack` counts in units of 1e-6 and 1e-14.
inline void check_close(const Tensor& got, const Values& want, double slack = 4.0) {
  REQUIRE(got.numel() == static_cast<std::int64_t>(want.size()));
  const double tolerance = slack * (got.dtype() == DType::f64 ? 1e-14 : 1e-6);
  const Values values = got.to_vector();
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool same = values[i] == want[i] || (std::isnan(values[i]) && std::isnan(want[i])) ||
                      std::abs(values[i] - want[i]) <= tolerance * (1.0 + std::abs(want[i]));
    if (!same) {
      CAPTURE(name_of(got.dtype()));
      CAPTURE(i);
      CAPTURE(want.size());
      CHECK(values[i] == want[i]);
      return;  // one element tells enough
    }
  }
}

// Runs f, which gives tensors, at several numbers of threads; the bits must agree.
template <class F>
std::vector<Tensor> at_all_threads(F&& f) {
  const CheckedPool checked;
  const std::vector<Tensor> one = [&] {
    const ThreadScope alone(1);
    return f();
  }();
  for (const int threads : {2, 3}) {
    const ThreadScope scope(threads);
    const std::vector<Tensor> many = f();
    for (std::size_t i = 0; i < one.size(); ++i) {
      CAPTURE(threads);
      CAPTURE(i);
      CHECK(one[i].same_bits(many[i]));
    }
  }
  return one;
}

// The same for a kernel that writes one new tensor: run(out).
template <class F>
Tensor run_on(const Shape& shape, DType dtype, F&& run, Device device = Device::cpu) {
  return at_all_threads([&] {
    const Tensor out = Tensor::empty(shape, dtype, device);
    run(out);
    return std::vector<Tensor>{out.to(Device::cpu)};
  })[0];
}

}  // namespace moegrad::test
