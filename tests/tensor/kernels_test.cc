#include "tensor/kernels.h"

#include <string>

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("the kernels of the cpu are always the same object") {
  CHECK(&kernels(Device::cpu) == &kernels(Device::cpu));
}

TEST_CASE("CUDA has kernels, or an error says what is missing, in the build or on the machine") {
  std::string error;
  try {
    const Tensor there = Tensor::full({3}, 2.0, DType::f32, Device::cuda);
    CHECK(there.to(Device::cpu).at(2) == 2.0);
  } catch (const Error& e) {
    error = e.what();
  }
  CAPTURE(error);
  CHECK((error.empty() ||
         error ==
             "[cuda] this build has no CUDA. Configure with -DMOEGRAD_CUDA=toolkit, or use the "
             "cpu." ||
         error == "[cuda] this machine has no CUDA device. Use the cpu." ||
         error.starts_with("[cuda] the driver serves CUDA ")));
}
