#include "cuda/device.h"

#include <string>

#include <doctest/doctest.h>

#include "cuda/emulator/emulator.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using cuda_emulator::Settings;
using cuda_emulator::With;
using test::error_of;

namespace {

std::string error_with(const Settings& settings) {
  const With with(settings);
  return error_of([] { (void)kernels(Device::cuda); });
}

}  // namespace

// First of all: who has met a device does not ask for it again.
TEST_CASE("device: none, no driver or an old one are errors that say so, and none is for ever") {
  CHECK(error_with({.devices = 0}) == "[cuda] this machine has no CUDA device. Use the cpu.");
  CHECK(error_with({.driver = 0}) ==
        "[cuda] the driver serves CUDA 0.0, and this build needs 13.0. Install a newer driver, or "
        "use the cpu.");
  CHECK(error_with({}) == "no error");
}

TEST_CASE("device: out of memory says what was asked, held and is free, and work goes on") {
  const Tensor held = Tensor::zeros({1 << 18}, DType::f32, Device::cuda);
  pool::release_cached(Device::cuda);
  const With with({.memory = std::size_t{3} << 20});
  const std::string error =
      error_of([] { (void)Tensor::zeros({1 << 20}, DType::f32, Device::cuda); });
  CHECK(error.starts_with("[storage] 4194304 bytes asked for, "));
  CHECK(error.find(" held by tensors, and ") != std::string::npos);
  CHECK(error.find(" bytes of 3145728 are free on the device. Use a smaller batch.") !=
        std::string::npos);
  CHECK(Tensor::full({1 << 17}, 2.0, DType::f32, Device::cuda).to(Device::cpu).at(5) == 2.0);
}

TEST_CASE("device: what is cached is given back before memory runs out") {
  pool::release_cached(Device::cuda);
  const With with({.memory = std::size_t{6} << 20});
  for (const std::int64_t n : {1 << 19, 1 << 18, 1 << 20, 1 << 19}) {
    CHECK(Tensor::full({n}, 1.0, DType::f32, Device::cuda).to(Device::cpu).at(n - 1) == 1.0);
  }
}

TEST_CASE("device: tensors of two devices, or of another type, are errors") {
  const Tensor here = Tensor::zeros({2}, DType::f32, Device::cpu);
  const Tensor there = here.to(Device::cuda);
  CHECK(error_of([&] { kernels(Device::cuda).accumulate(1.0, here, there); }) ==
        "[cuda] a kernel is given a f32 tensor [2] of the cpu device. Move it: to(Device::cuda).");
  CHECK(error_of([&] { kernels(Device::cuda).copy(here, there); }) ==
        "[cuda] a kernel is given a f32 tensor [2] of the cpu device. Move it: to(Device::cuda).");
  const Tensor doubles = there.to(DType::f64);
  CHECK(error_of([&] { kernels(Device::cuda).accumulate(1.0, doubles, there); }) ==
        "[cuda] elements are f64, asked for as f32. Convert with to().");
  CHECK(error_of([&] { (void)there.at(0); }).find("asked for on the host") != std::string::npos);
}

TEST_CASE("device: what is written past the end of a tensor shows where the pool is checked") {
  pool::set_checked(true);
  const Tensor x = Tensor::zeros({3}, DType::f32, Device::cuda);
  auto* const end = reinterpret_cast<std::byte*>(x.place() + 12);
  CHECK(cuda::have_value(end, 0xa5, 64));
  cuda::set_bytes(end + 63, 0, 1);
  CHECK_FALSE(cuda::have_value(end, 0xa5, 64));
  cuda::set_bytes(end, 0xa5, 64);  // else the tensor's end would end the program
  pool::set_checked(false);
}
