#include "tensor/kernels.h"

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("the kernels of the cpu are always the same object") {
  CHECK(&kernels(Device::cpu) == &kernels(Device::cpu));
}

TEST_CASE("a device that the build lacks is an error") {
  CHECK_THROWS_WITH_AS(
      kernels(Device::cuda),
      "[kernels] this build has no cuda device. Configure with CUDA, or use the cpu device.",
      Error);
}
