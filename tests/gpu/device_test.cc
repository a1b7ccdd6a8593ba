// What nvcc has compiled, on this machine's GPU; where there is none, the error that says so.
#include "cuda/device.h"

#include <string>

#include <doctest/doctest.h>

using namespace moegrad;

namespace {

// Empty where the device can be used.
std::string missing() {
  try {
    (void)kernels(Device::cuda);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("gpu: it computes, or says what is missing") {
  const std::string error = missing();
  if (!error.empty()) {
    CAPTURE(error);
    CHECK((error == "[cuda] this machine has no CUDA device. Use the cpu." ||
           error.starts_with("[cuda] the driver serves CUDA ")));
    MESSAGE("nothing has run on a GPU: " << error);
    return;
  }
  Rng rng{.seed = 1};
  const Tensor a = rng.normal({70, 90}, DType::f32);
  const Tensor b = rng.normal({90, 50}, DType::f32);
  const Tensor here = Tensor::empty({70, 50}, DType::f32, Device::cpu);
  kernels(Device::cpu).matmul(a, false, b, false, 0.0, here);
  const Tensor there = Tensor::empty({70, 50}, DType::f32, Device::cuda);
  kernels(Device::cuda).matmul(a.to(Device::cuda), false, b.to(Device::cuda), false, 0.0, there);
  const std::vector<double> want = here.to_vector();
  const std::vector<double> got = there.to_vector();
  for (std::size_t i = 0; i < want.size(); ++i) {
    CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-4));
  }
  const Tensor noise_here = Rng{3, 1, 0}.gumbel({1000}, DType::f64, Device::cpu);
  const Tensor noise_there = Rng{3, 1, 0}.gumbel({1000}, DType::f64, Device::cuda);
  CHECK(noise_there.same_bits(noise_here));
}
