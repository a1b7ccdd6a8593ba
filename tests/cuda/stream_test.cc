#include "cuda/stream.h"

#include <algorithm>
#include <array>
#include <deque>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "cuda/device.h"
#include "cuda/emulator/emulator.h"
#include "tensor/kernels.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using test::error_of;

namespace {

Tensor indices(std::initializer_list<std::int32_t> values) {
  return Tensor::of<std::int32_t>({static_cast<std::int64_t>(values.size())}, values)
      .to(Device::cuda);
}

}  // namespace

TEST_CASE("stream: an index out of range is an error of the next transfer, once") {
  const Tensor x = Tensor::of<double>({2, 1}, {5.0, 6.0}).to(Device::cuda);
  const Tensor out = x.like({3, 1});
  kernels(Device::cuda).gather_rows(x, indices({1, 7, 0}), out);
  CHECK(error_of([&] { (void)out.to_vector(); }) ==
        "[gather_rows] an index is 7, outside [-1, 2). Check the indices against the sizes.");
  CHECK(out.to_vector() == std::vector<double>{6.0, 0.0, 5.0});
}

TEST_CASE("stream: of several faults the first operation's is told") {
  const Tensor x = Tensor::of<double>({2, 1}, {5.0, 6.0}).to(Device::cuda);
  const Tensor out = x.like({1, 1});
  kernels(Device::cuda).gather_rows(x, indices({3}), out);
  kernels(Device::cuda).take_columns(x, indices({4, 4}).reshape({2, 1}), x.like({2, 1}));
  CHECK(error_of([] { cuda::check_faults(); }).starts_with("[gather_rows] an index is 3"));
  CHECK(error_of([] { cuda::check_faults(); }) == "no error");
}

TEST_CASE("stream: a plan of choices out of range has no slots, whoever reads it") {
  const Tensor selected = indices({0, 9}).reshape({2, 1});
  const Tensor offsets = selected.like({3});
  const Tensor order = selected.like({2});
  const Tensor inverse = selected.like({2, 1});
  kernels(Device::cuda).plan(selected, 2, offsets, order, inverse);
  const Tensor x = Tensor::of<double>({2, 1}, {5.0, 6.0}).to(Device::cuda);
  const Tensor out = x.like({2, 1});
  kernels(Device::cuda).tokens_to_slots(x, {}, order, 1, out);
  CHECK(error_of([&] { (void)out.to_vector(); }) ==
        "[plan] token 1 chooses expert 9 of 2. Use 0 to 1, or -1 for none.");
  CHECK(out.to_vector() == std::vector<double>{0.0, 0.0});
}

TEST_CASE("stream: what an index out of range should have given is there to be read") {
  const Tensor bad = indices({-1, 3});
  const bool before = pool::set_checked(true);  // nothing is left of who had the memory before
  const Tensor drawn = bad.like();
  pool::set_checked(before);
  kernels(Device::cuda).random_integers({1, 2, 3}, bad, 5, drawn);
  const Tensor out = bad.like({2, 1});
  kernels(Device::cuda).gather_rows(indices({7}).reshape({1, 1}), drawn, out);
  CHECK(error_of([&] { (void)out.to_vector(); }).starts_with("[random_integers] an index is -1"));
}

TEST_CASE("stream: a step in which there was a fault changes nothing, the next one does") {
  const Tensor x = Tensor::of<double>({2, 1}, {5.0, 6.0}).to(Device::cuda);
  const Tensor slope = x.like({1, 1});
  const Tensor parameter = Tensor::full({1, 1}, 3.0, DType::f64, Device::cuda);
  const Tensor momentum = Tensor::zeros({1, 1}, DType::f64, Device::cuda);
  const StepSize size{.learning_rate = Tensor::full({}, 0.5, DType::f64, Device::cuda),
                      .norm = x.like({}),
                      .steps = Tensor::zeros({}, DType::f64, Device::cuda)};
  const ParameterStep step{.parameter = parameter, .gradient = slope, .moments = {momentum}};
  const auto run = [&](std::int32_t index) {
    kernels(Device::cuda).gather_rows(x, indices({index}), slope);
    kernels(Device::cuda).gradient_norm({&step, 1}, {}, size.norm);
    kernels(Device::cuda).sgd({}, {&step, 1}, size);
  };
  run(2);
  CHECK(error_of([&] { (void)size.norm.item(); }).starts_with("[gather_rows] an index is 2"));
  CHECK(parameter.item() == 3.0);
  CHECK(size.steps.item() == 0.0);
  run(1);
  CHECK(size.norm.item() == 6.0);
  CHECK(parameter.item() == 0.0);
  CHECK(size.steps.item() == 1.0);
}

TEST_CASE("stream: threads of the host launch side by side") {
  constexpr int kNames = 2000;
  static std::array<std::deque<std::string>, 2> names;  // as literals are, for ever
  std::array<std::set<int>, 2> numbers;
  const auto work = [&](std::size_t t) {
    Tensor x = Tensor::zeros({1}, DType::f64, Device::cuda);
    for (int i = 0; i < kNames; ++i) {
      names[t].push_back(std::to_string(t) + ":" + std::to_string(i));
      numbers[t].insert(cuda::number_of(names[t].back().c_str()));
      if (i % 20 == 0) kernels(Device::cuda).accumulate(1.0, x.clone(), x);
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  std::set<int> all = numbers[0];
  all.insert(numbers[1].begin(), numbers[1].end());
  CHECK(all.size() == 2 * kNames);
}

TEST_CASE("stream: what is given to it late is done by the time it is waited for") {
  const cuda_emulator::With with({.deferred = true});
  Tensor x = Tensor::full({4}, 1.5, DType::f64, Device::cuda);
  kernels(Device::cuda).accumulate(2.0, x.clone(), x);
  CHECK(x.to_vector() == std::vector<double>(4, 4.5));
}

// One after the other some are staged, and what no longer fits is not; all is on its way late.
TEST_CASE(
    "stream: what is uploaded is what the host had then, however much and of whatever memory") {
  constexpr std::int64_t kMegabyte = 1 << 17;  // in elements
  const cuda_emulator::With with({.deferred = true});
  void* memory = nullptr;
  for (const bool pinned : {false, true}) {
    CAPTURE(pinned);
    std::vector<double> own(pinned ? 0 : 5 * kMegabyte);
    if (pinned) REQUIRE(cudaMallocHost(&memory, 5 * kMegabyte * sizeof(double)) == cudaSuccess);
    double* const host = pinned ? static_cast<double*>(memory) : own.data();
    std::vector<Tensor> there;
    for (const std::int64_t size : {1, 0, 3, 2, 1, 5, 0, 2}) {
      const Tensor x = Tensor::view({size * kMegabyte}, DType::f64, Device::cpu, host, nullptr);
      std::fill_n(host, size * kMegabyte, static_cast<double>(there.size()));
      there.push_back(x.to(Device::cuda));
    }
    std::fill_n(host, 5 * kMegabyte, -1.0);
    for (std::size_t i = 0; i < there.size(); ++i) {
      CAPTURE(i);
      const std::vector<double> got = there[i].to_vector();  // 5 megabytes are not staged either
      CHECK(std::count(got.begin(), got.end(), static_cast<double>(i)) == there[i].numel());
    }
  }
  CHECK(cudaFreeHost(memory) == cudaSuccess);
}

TEST_CASE("stream: an answer of the runtime that is no success names the operation") {
  CHECK(error_of([] {
          cuda::require(cudaErrorInvalidValue, "reduce");
        }).starts_with("[reduce] the device answers cudaErrorInvalidValue (invalid argument). "));
}

TEST_CASE("stream: an error is told by the call that it is of, and then forgotten") {
  void* memory = nullptr;
  {
    const cuda_emulator::With with({.memory = 1});
    CHECK(error_of([&] {
            cuda::require(cudaMalloc(&memory, 100), "reduce");
          }).starts_with("[reduce] the device answers cudaErrorMemoryAllocation"));
  }
  CHECK(cudaPeekAtLastError() == cudaSuccess);
}
