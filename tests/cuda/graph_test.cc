// Graphs, as the work that records them sees it: Captured.
#include "cuda/graph.h"

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include "cuda/device.h"
#include "cuda/emulator/emulator.h"
#include "tensor/captured.h"
#include "tensor/kernels.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using test::error_of;

namespace {

Tensor there(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values).to(Device::cuda);
}

// sum += x + 1, by a tensor that the work makes.
struct Adder {
  Tensor x = there({1.0, 2.0});
  Tensor sum = there({0.0, 0.0});
  Tensor made = {};
  Captured work{Device::cuda};

  void operator()() {
    work({}, [this] {
      made = {};
      made = sum.like({2});
      Kernels& device = kernels(Device::cuda);
      device.fill(1.0, made);
      device.accumulate(1.0, x, made);
      device.accumulate(1.0, made, sum);
    });
  }
};

}  // namespace

TEST_CASE("graph: work is launched once by the host, recorded, and then replayed by one call") {
  Adder add;
  std::vector<double> expected = {0.0, 0.0};
  for (int call = 1; call <= 4; ++call) {
    CAPTURE(call);
    const double first = 10.0 * call;
    kernels(Device::cuda).copy(there({first, 2.0}), add.x);
    const cuda_emulator::Log log;
    add();
    CHECK(log.count("cudaStreamBeginCapture") == (call == 2 ? 1 : 0));
    CHECK(log.count("cudaGraphLaunch") == (call == 1 ? 0 : 1));
    CHECK((log.count("cudaLaunchKernel") > 0) == (call <= 2));
    CHECK(log.waits() == 0);
    expected[0] += first + 1.0;
    expected[1] += 3.0;
    CHECK(add.sum.to_vector() == expected);
    CHECK(add.made.to_vector() == std::vector<double>{first + 1.0, 3.0});
  }
}

TEST_CASE("graph: the numbers of the call's stream are drawn, and those of others again") {
  const Rng fixed{.seed = 3, .stream = 8};
  Tensor of_call = there({0.0, 0.0, 0.0});
  Tensor of_other = of_call.clone();
  Captured work(Device::cuda);
  for (std::uint64_t stream = 5; stream < 9; ++stream) {
    CAPTURE(stream);
    const Rng rng{.seed = 3, .stream = stream};
    work(rng, [&] {
      Rng ours = rng;
      (void)ours.take(7);
      kernels(Device::cuda).random_normal(ours, 0.0, 1.0, of_call);
      kernels(Device::cuda).random_uniform(fixed, 0.0, 1.0, of_other);
    });
    Rng same = rng;
    (void)same.take(7);
    CHECK(of_call.to(Device::cpu).same_bits(same.normal({3}, DType::f64)));
    CHECK(of_other.to(Device::cpu).same_bits(Rng(fixed).uniform({3}, DType::f64)));
  }
  CHECK(error_of([&] { work({.seed = 4, .stream = 5}, [] {}); }) ==
        "[graph] a generator of seed 4 at 0, where seed 3 at 0 was recorded. Change its stream "
        "alone.");
}

TEST_CASE(
    "graph: what no replay would do again is an error, nothing of it runs, and work goes on") {
  Tensor x = there({1.0, 2.0});
  const double host[] = {5.0, 6.0};
  const auto refused = [&](const std::function<void()>& act) {
    Captured work(Device::cuda);
    const auto all = [&] {
      kernels(Device::cuda).fill(3.0, x);
      act();
    };
    work({}, all);
    kernels(Device::cuda).fill(4.0, x);
    const std::string error = error_of([&] { work({}, all); });
    CHECK(x.to_vector() == std::vector<double>{4.0, 4.0});
    CHECK(!cuda::recording());
    return error;
  };
  const std::string advice =
      " in work that is recorded to be replayed without it. Leave that out, or do not record.";
  CHECK(refused([&] { (void)x.to_vector(); }) == "[graph] the host waits for the device" + advice);
  CHECK(refused([&] { (void)kernels(Device::cuda).all_finite(x); }) ==
        "[graph] the host waits for the device" + advice);
  CHECK(refused([&] {
          kernels(Device::cuda).upload(reinterpret_cast<const std::byte*>(host), x);
        }) == "[graph] the host brings numbers to the device" + advice);
  int call = 0;
  CHECK(refused([&] { (void)x.like({std::int64_t{1} << (10 + 4 * call++)}); }) ==
        "[storage] 131072 bytes asked for by work that is done again, and that took no such block "
        "before. Let it take the same each time.");
  int thrown = 0;
  CHECK(refused([&] {
          if (thrown++ > 0) throw Error("of the work");
        }) == "of the work");
}

TEST_CASE(
    "graph: where no memory is left for it the call is an error, and the next one records it") {
  Adder add;
  add();
  pool::release_cached(Device::cuda);
  {
    const cuda_emulator::With with({.memory = 1});
    CHECK(error_of([&] { add(); }) ==
          "[graph] 0 bytes of 1 are free on the device, which leaves none for a graph. Use a "
          "smaller batch.");
  }
  for (int call = 2; call <= 3; ++call) {
    add();
    CHECK(add.sum.to_vector() == std::vector<double>{2.0 * call, 3.0 * call});
  }
}

TEST_CASE("graph: captured work within captured work is an error") {
  Captured outer(Device::cuda);
  Captured inner(Device::cuda);
  for (int call = 1; call <= 2; ++call) {
    CHECK(error_of([&] { outer({}, [&] { inner({}, [] {}); }); }) ==
          "[storage] work with memory of its own begins within such work. Capture one of them.");
  }
  outer({}, [] {});
}

TEST_CASE("graph: other threads of the host have other memory, and what they launch is done once") {
  const Tensor x = there({1.0, 2.0});
  Tensor sum = there({0.0, 0.0});
  Tensor others = there({0.0, 0.0});
  Tensor theirs[4];
  (void)std::array{sum.like(), sum.like(), sum.like(), sum.like()};  // left for them in the pool
  std::thread thread;
  std::atomic<bool> launched = false;
  Captured work(Device::cuda);
  for (int call = 1; call <= 4; ++call) {
    CAPTURE(call);
    work({}, [&] {
      {
        const Tensor made = sum.like();
        kernels(Device::cuda).copy(x, made);
        kernels(Device::cuda).accumulate(1.0, made, sum);
      }
      std::thread([&] { theirs[call - 1] = sum.like(); }).join();
      launched = false;
      thread = std::thread([&] {
        kernels(Device::cuda).accumulate(1.0, x, others);
        launched = true;
      });
      for (int i = 0; i < 100 && !launched; ++i) {  // it may have to wait until this is over
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    if (thread.joinable()) thread.join();
    if (call == 2) kernels(Device::cuda).fill(7.0, theirs[1]);
    CHECK(sum.to_vector() == std::vector<double>{1.0 * call, 2.0 * call});
  }
  CHECK(theirs[1].to_vector() == std::vector<double>{7.0, 7.0});
  CHECK(others.to_vector() == std::vector<double>{2.0, 4.0});
}

TEST_CASE("graph: other devices have none") {
  CHECK(error_of([] { const Captured work(Device::cpu); }) ==
        "[graph] the cpu device records no graphs. Use cuda, or do not record.");
}

TEST_CASE("graph: its memory is nobody else's while it is there, and the pool's afterwards") {
  const std::size_t cached = pool::stats(Device::cuda).bytes_cached;
  Tensor sum;
  {
    Adder add;
    for (int call = 1; call <= 5; ++call) {
      add();
      std::vector<Tensor> others;
      for (int i = 0; i < 20; ++i) others.push_back(there({7.0, 7.0}));
      CHECK(add.made.to_vector() == std::vector<double>{2.0, 3.0});
      CHECK(add.sum.to_vector() == std::vector<double>{2.0 * call, 3.0 * call});
    }
    sum = add.made;  // outlives it
  }
  CHECK(sum.to_vector() == std::vector<double>{2.0, 3.0});
  sum = {};
  CHECK(pool::stats(Device::cuda).bytes_cached >= cached);
  const std::uint64_t before = pool::stats(Device::cuda).system_allocations;
  std::vector<Tensor> others;
  for (int i = 0; i < 20; ++i) others.push_back(Tensor::empty({2}, DType::f64, Device::cuda));
  CHECK(pool::stats(Device::cuda).system_allocations == before);
}
