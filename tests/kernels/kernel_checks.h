#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "cuda/device.h"
#include "tensor/kernels.h"
#include "tensor/threads.h"
#include "tests/devices.h"

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

// A device as a test sees it: on->kernel(on(x), .., out). Inputs, results, and what is expected of
// them, are of the host.
struct OnDevice {
  Kernels* operator->() const { return &kernels(device); }
  // A tensor of the host, there. On the CPU that is the tensor itself: one that is to change is
  // cloned.
  Tensor operator()(const Tensor& host) const { return host.to(device); }
  // False of the guarded device, which has the CPU's, and where each tensor and each call are
  // system calls over all its memory: several numbers of threads, and millions of elements, are for
  // others.
  bool has_own_kernels() const { return device != Device::guarded; }
  // What f gives, tensors that it has let kernels write, at several numbers of threads, or on an
  // emulated device in several orders: the bits must agree.
  template <class F>
  std::vector<Tensor> at_all_threads(F&& f) const;
  // The same of a kernel that writes one new tensor, run(out).
  template <class F>
  Tensor run(const Shape& shape, DType dtype, F&& run) const;
  // The message of the Error that kernels called by f are refused with; empty: they are not. A
  // device that cannot throw from a kernel may keep it in an error word, which is then read here.
  template <class F>
  std::string error_of(F&& f) const;

  Device device;
};

// Those that have kernels in this build.
inline std::vector<OnDevice> on_devices() {
  std::vector<OnDevice> all;
  for (const Device device : devices()) all.push_back({device});
  return all;
}

// A test case for every device, whose body sees it as `on`; --subcase=NAME runs it on one alone.
#define KERNEL_TEST(name) MOEGRAD_KERNEL_TEST(DOCTEST_ANONYMOUS(kernel_test_), name, true)
// The same for those that have kernels of their own.
#define OWN_KERNEL_TEST(name) \
  MOEGRAD_KERNEL_TEST(DOCTEST_ANONYMOUS(kernel_test_), name, on.has_own_kernels())
// The pool lets go of what a test took: a call on the guarded device passes over all pages in use.
#define MOEGRAD_KERNEL_TEST(body, name, runs) \
  static void body(const OnDevice& on);       \
  TEST_CASE(name) {                           \
    for (const OnDevice& on : on_devices()) { \
      if (!(runs)) continue;                  \
      SUBCASE(name_of(on.device).data()) {    \
        body(on);                             \
        pool::release_cached(on.device);      \
      }                                       \
    }                                         \
  }                                           \
  static void body(const OnDevice& on)

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

// x, of one element or row for each index, with NaN where the index is -1: it is to count for
// nothing.
inline Tensor nan_where_none(const Tensor& x, const Tensor& index) {
  const Tensor out = x.clone();
  const std::int64_t width = x.numel() / std::max<std::int64_t>(1, index.numel());
  const Tensor rows = out.reshape({index.numel(), width});
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    if (index.at(i) < 0) kernels(Device::cpu).fill(std::nan(""), rows.rows(i, i + 1));
  }
  return out;
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

template <class F>
std::vector<Tensor> OnDevice::at_all_threads(F&& f) const {
  const CheckedPool checked;
  const auto run_with = [&](int threads) {
    const ThreadScope scope(threads);
    cuda::set_schedule(static_cast<std::uint64_t>(threads - 1));
    std::vector<Tensor> result = f();
    for (Tensor& t : result) t = t.to(Device::cpu);
    cuda::set_schedule(0);
    return result;
  };
  if (!has_own_kernels()) return run_with(2);
  std::vector<Tensor> one = run_with(1);
  const int most =
      device == Device::cuda ? 2 : 3;  // one order of its blocks and threads, and another
  for (int threads = 2; threads <= most; ++threads) {
    const std::vector<Tensor> many = run_with(threads);
    for (std::size_t i = 0; i < one.size(); ++i) {
      CAPTURE(threads);
      CAPTURE(i);
      CHECK(one[i].same_bits(many[i]));
    }
  }
  return one;
}

template <class F>
Tensor OnDevice::run(const Shape& shape, DType dtype, F&& run) const {
  return at_all_threads([&] {
    const Tensor out = Tensor::empty(shape, dtype, device);
    run(out);
    return std::vector<Tensor>{out};
  })[0];
}

template <class F>
std::string OnDevice::error_of(F&& f) const {
  try {
    f();
    if (device == Device::cuda) cuda::check_faults();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace moegrad::test
