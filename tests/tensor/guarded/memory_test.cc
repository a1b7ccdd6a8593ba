#include "tensor/guarded/memory.h"

#include <csignal>
#include <cstdlib>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/kernels.h"

using namespace moegrad;

namespace {

// The signal that ends a process of its own which runs f; 0 where it ends by itself.
template <class F>
int signal_of(const F& f) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

TEST_CASE("guarded memory is touched by kernels and transfers alone") {
  const Tensor host = Tensor::of<double>({2, 2}, {1.0, 2.0, 3.0, 4.0});
  const Tensor x = host.to(Device::guarded);
  CHECK(x.device() == Device::guarded);
  const Tensor y = x.like();
  kernels(x.device()).copy(x, y);
  CHECK(y.to(Device::cpu).same_bits(host));
  CHECK(y.same_bits(x));
  CHECK(x.rows(1, 2).to_vector() == std::vector<double>{3.0, 4.0});

  const std::string refused =
      "[tensor] elements of a guarded tensor [2, 2] asked for on the host. Copy it: "
      "to(Device::cpu).";
  CHECK_THROWS_WITH_AS(x.at(0), refused.c_str(), Error);
  CHECK_THROWS_WITH_AS(x.data<double>(), refused.c_str(), Error);
  CHECK_THROWS_WITH_AS(x.write<double>(), refused.c_str(), Error);
  CHECK_THROWS_WITH_AS(x.raw(), refused.c_str(), Error);

  // An address that somebody kept is no way in.
  const double* kept = nullptr;
  {
    const guarded::Open open(Device::guarded);
    kept = x.data<double>();
    CHECK(kept[3] == 4.0);
  }
  CHECK(signal_of([&] {
          if (kept[3] != 4.0) std::abort();
        }) == SIGSEGV);
  CHECK(signal_of([&] {
          const guarded::Open open(Device::guarded);
          if (kept[3] != 4.0) std::abort();
        }) == 0);
}

TEST_CASE("no tensor, an empty one and a view of another device's memory move too") {
  CHECK_FALSE(Tensor().to(Device::guarded).defined());
  const std::uint64_t before = waits_for_devices();
  const Tensor empty = Tensor::zeros({0, 3}, DType::f64, Device::cpu).to(Device::guarded);
  CHECK(empty.device() == Device::guarded);
  CHECK(empty.to_vector().empty());
  CHECK(waits_for_devices() == before);

  const auto owner =
      std::make_shared<Tensor>(Tensor::of<double>({3}, {1.0, 2.0, 3.0}).to(Device::guarded));
  void* address = nullptr;
  {
    const guarded::Open open(Device::guarded);
    address = owner->write<double>() + 1;
  }
  const Tensor view = Tensor::view({2}, DType::f64, Device::guarded, address, owner);
  CHECK_THROWS_AS(view.at(0), Error);
  CHECK(view.to_vector() == std::vector<double>{2.0, 3.0});
}

TEST_CASE("a kernel of the guarded device refuses tensors of another") {
  const Tensor x = Tensor::zeros({2}, DType::f64, Device::guarded);
  const Tensor host = Tensor::zeros({2}, DType::f64, Device::cpu);
  CHECK_THROWS_WITH_AS(kernels(Device::guarded).copy(host, x),
                       "[guarded] a kernel is given a f64 tensor [2] of the cpu device. Move it: "
                       "to(Device::guarded).",
                       Error);
  CHECK_THROWS_AS(kernels(Device::cpu).copy(x, host), Error);
}

TEST_CASE("waits for a device are counted") {
  const Tensor x = Tensor::full({3}, 2.0, DType::f64, Device::guarded);
  const std::uint64_t before = waits_for_devices();
  CHECK(x.to_vector() == std::vector<double>{2.0, 2.0, 2.0});
  CHECK(x.rows(0, 1).item() == 2.0);
  CHECK(waits_for_devices() == before + 2);
  CHECK(x.to(Device::guarded).shares_storage(x));
  (void)Tensor::scalar(1.0).to(Device::guarded);
  (void)Tensor::scalar(1.0).item();
  CHECK(waits_for_devices() == before + 2);
}

TEST_CASE("tensors of any type are read together by one wait") {
  for (const Device device : {Device::cpu, Device::guarded}) {
    const std::vector<Tensor> tensors = {Tensor::of<float>({2}, {0.5F, -1.0F}).to(device),
                                         Tensor::scalar(0.1).to(device),
                                         Tensor::zeros({0, 3}, DType::f32, device),
                                         Tensor::of<std::int32_t>({1, 2}, {7, -1}).to(device)};
    const std::uint64_t before = waits_for_devices();
    CHECK(concatenated(tensors).to_vector() == std::vector<double>{0.5, -1.0, 0.1, 7.0, -1.0});
    CHECK(waits_for_devices() - before == (device == Device::cpu ? 0 : 1));
  }
}

TEST_CASE("the guarded device has a pool, and checked memory, of its own") {
  const PoolStats before = pool::stats(Device::guarded);
  {
    const Tensor x = Tensor::empty({1000}, DType::f64, Device::guarded);
    CHECK(pool::stats(Device::guarded).bytes_in_use > before.bytes_in_use);
  }
  CHECK(pool::stats(Device::guarded).bytes_in_use == before.bytes_in_use);
  const bool checked = pool::set_checked(true);
  {
    const Tensor x = Tensor::empty({5}, DType::f64, Device::guarded);
    for (const double v : x.to_vector()) CHECK(std::isnan(v));
  }
  pool::set_checked(checked);
  pool::release_cached(Device::guarded);
  CHECK(pool::stats(Device::guarded).bytes_cached == 0);
}
