#include "tensor/maths.h"

#include <thread>

#include <doctest/doctest.h>

using namespace moegrad;

TEST_CASE("maths: it is of a thread, and a scope gives back what was there") {
  const MathsScope scope(Maths::tf32);
  Maths theirs[2] = {};
  std::thread([&] {
    theirs[0] = maths();
    set_maths(Maths::bf16);
    theirs[1] = maths();
  }).join();
  CHECK(theirs[0] == Maths::exact);
  CHECK(theirs[1] == Maths::bf16);
  CHECK(maths() == Maths::tf32);
  {
    const MathsScope within(Maths::exact);
    CHECK(maths() == Maths::exact);
  }
  CHECK(maths() == Maths::tf32);
}
