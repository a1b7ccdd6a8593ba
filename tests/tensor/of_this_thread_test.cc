#include "tensor/of_this_thread.h"

#include <atomic>
#include <thread>

#include <doctest/doctest.h>

#include "tensor/kernels.h"
#include "tensor/threads.h"

using namespace moegrad;

namespace {

std::atomic<int> alive{0};
struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
};

// A product that is shared out among threads, and the sum of its first and last element: 128.
double product_and_sum() {
  const ThreadScope two(2);
  const Tensor a = Tensor::full({512, 64}, 0.5, DType::f32, Device::cpu);
  const Tensor b = Tensor::full({64, 64}, 2.0, DType::f32, Device::cpu);
  const Tensor c = Tensor::empty({512, 64}, DType::f32, Device::cpu);
  kernels(Device::cpu).matmul(a, false, b, false, 0.0, c);
  return c.at(0) + c.at(c.numel() - 1);
}

// Made before the thread's first product, so destroyed after what products keep for a thread.
std::atomic<double> late_result{0.0};
struct Late {
  int touched = 0;
  ~Late() { late_result = product_and_sum(); }
};
thread_local Late late;

}  // namespace

TEST_CASE("one for each thread, destroyed with it") {
  const Counted* first = nullptr;
  std::thread([&] {
    first = &of_this_thread<Counted>();
    CHECK(&of_this_thread<Counted>() == first);
    CHECK(alive == 1);
    std::thread([&] { CHECK(&of_this_thread<Counted>() != first); }).join();
    CHECK(alive == 1);
  }).join();
  CHECK(alive == 0);
}

TEST_CASE("a product in a destructor that runs after everything of its thread is gone") {
  std::thread([] {
    late.touched = 1;
    CHECK(product_and_sum() == 128.0);
  }).join();
  CHECK(late_result == 128.0);
}
