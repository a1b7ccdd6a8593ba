#include "tensor/storage.h"

#include <cstring>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/tensor.h"

using namespace moegrad;

TEST_CASE("storage is aligned at every size") {
  for (std::size_t bytes = 0; bytes < 3000; bytes += 7) {
    const Storage s = Storage::allocate(bytes, Device::cpu);
    CHECK(s.bytes() == bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(s.data()) % 64 == 0);
    if (bytes > 0) std::memset(s.data(), 1, bytes);
  }
}

TEST_CASE("a freed block is used again, and never two at once") {
  std::byte* first = nullptr;
  {
    const Storage a = Storage::allocate(1000, Device::cpu);
    first = a.data();
    const Storage b = Storage::allocate(1000, Device::cpu);
    CHECK(b.data() != first);
  }
  const std::uint64_t before = pool::stats(Device::cpu).system_allocations;
  const Storage c = Storage::allocate(1000, Device::cpu);
  const Storage d = Storage::allocate(990, Device::cpu);
  CHECK(c.data() != d.data());
  CHECK((c.data() == first || d.data() == first));
  CHECK(pool::stats(Device::cpu).system_allocations == before);
}

TEST_CASE("the last handle frees") {
  const std::size_t before = pool::stats(Device::cpu).bytes_in_use;
  Storage a = Storage::allocate(5000, Device::cpu);
  CHECK(a.unique());
  Storage b = a;
  CHECK(a == b);
  CHECK_FALSE(a.unique());
  Storage c = std::move(a);
  CHECK_FALSE(static_cast<bool>(a));  // NOLINT(bugprone-use-after-move)
  b = Storage();
  CHECK(c.unique());
  const Storage& itself = c;
  c = itself;
  CHECK(c.unique());
  CHECK(pool::stats(Device::cpu).bytes_in_use > before);
  c = Storage();
  CHECK(pool::stats(Device::cpu).bytes_in_use == before);
}

TEST_CASE("the pool counts what it holds") {
  pool::release_cached(Device::cpu);
  CHECK(pool::stats(Device::cpu).bytes_cached == 0);
  pool::reset_peak(Device::cpu);
  const PoolStats before = pool::stats(Device::cpu);
  CHECK(before.peak_bytes_in_use == before.bytes_in_use);
  {
    const Storage a = Storage::allocate(std::size_t{1} << 20, Device::cpu);
    const Storage b = Storage::allocate(std::size_t{1} << 20, Device::cpu);
  }
  const PoolStats after = pool::stats(Device::cpu);
  CHECK(after.allocations == before.allocations + 2);
  CHECK(after.system_allocations == before.system_allocations + 2);
  CHECK(after.bytes_in_use == before.bytes_in_use);
  CHECK(after.peak_bytes_in_use >= before.bytes_in_use + (std::size_t{2} << 20));
  CHECK(after.bytes_cached >= (std::size_t{2} << 20));
  // At most a quarter more than asked for.
  CHECK(after.bytes_cached <= (std::size_t{2} << 20) * 5 / 4);
}

TEST_CASE("a request that memory cannot hold is an error") {
  CHECK_THROWS_AS(Storage::allocate(std::size_t{1} << 60, Device::cpu), Error);
  CHECK_THROWS_AS(Storage::allocate(~std::size_t{0}, Device::cpu), Error);
  CHECK_THROWS_AS(Storage::allocate(~std::size_t{0} - 100, Device::cpu), Error);
}

TEST_CASE("threads may share the pool") {
  const std::size_t before = pool::stats(Device::cpu).bytes_in_use;
  std::vector<std::thread> threads;
  std::atomic<int> clashes{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &clashes] {
      for (int i = 0; i < 2000; ++i) {
        const auto bytes = static_cast<std::size_t>(64 + i % 300);
        const Storage s = Storage::allocate(bytes, Device::cpu);
        std::memset(s.data(), t, bytes);
        const Storage copy = s;
        if (copy.data()[bytes - 1] != static_cast<std::byte>(t)) ++clashes;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(clashes == 0);
  CHECK(pool::stats(Device::cpu).bytes_in_use == before);
}

TEST_CASE("a block may be freed by another thread than took it") {
  const PoolStats before = pool::stats(Device::cpu);
  for (int i = 0; i < 100; ++i) {
    Storage s = Storage::allocate(4000, Device::cpu);
    std::thread([taken = std::move(s)]() mutable { taken = Storage(); }).join();
  }
  const PoolStats after = pool::stats(Device::cpu);
  CHECK(after.bytes_in_use == before.bytes_in_use);
  CHECK(after.allocations == before.allocations + 100);
  CHECK(after.system_allocations <= before.system_allocations + 1);
}

TEST_CASE("the memory of a PoolVector comes from the pool and goes back") {
  const PoolStats before = pool::stats(Device::cpu);
  const auto fill = [] {
    PoolVector<std::int64_t> v;
    for (std::int64_t i = 0; i < 1000; ++i) v.push_back(i);
    CHECK(reinterpret_cast<std::uintptr_t>(v.data()) % 64 == 0);
    CHECK(v[999] == 999);
    const PoolVector<std::int64_t> copy = v;
    CHECK(copy == v);
    return pool::stats(Device::cpu).bytes_in_use;
  };
  CHECK(fill() >= before.bytes_in_use + 2 * 8000);
  const std::uint64_t taken = pool::stats(Device::cpu).system_allocations;
  CHECK(fill() >= before.bytes_in_use + 2 * 8000);
  CHECK(pool::stats(Device::cpu).system_allocations == taken);
  CHECK(pool::stats(Device::cpu).bytes_in_use == before.bytes_in_use);
}

TEST_CASE("a budget bounds what a thread takes from the system, while it lives") {
  pool::release_cached(Device::cpu);
  const std::size_t before = pool::stats(Device::cpu).bytes_in_use;
  {
    const pool::Budget budget(1 << 20);
    const Storage half = Storage::allocate(1 << 19, Device::cpu);
    CHECK_THROWS_AS(Storage::allocate(1 << 20, Device::cpu), Error);
    CHECK_THROWS_AS(Storage::allocate(std::size_t{1} << 33, Device::cpu), Error);
    {
      const pool::Budget more(1 << 24);
      CHECK_NOTHROW(Storage::allocate(1 << 20, Device::cpu));
    }
    std::thread([] { CHECK_NOTHROW(Storage::allocate(1 << 22, Device::cpu)); }).join();
    CHECK_THROWS_AS(Storage::allocate(1 << 23, Device::cpu), Error);
  }
  CHECK_NOTHROW(Storage::allocate(1 << 23, Device::cpu));
  CHECK(pool::stats(Device::cpu).bytes_in_use == before);
}

TEST_CASE("somebody else's memory is viewed, and kept as long as a handle is") {
  auto numbers = std::make_shared<std::vector<double>>(std::vector<double>{1.0, 2.0, 3.0, 4.0});
  const std::weak_ptr<std::vector<double>> alive = numbers;
  {
    Tensor x = Tensor::view({2, 2}, DType::f64, Device::cpu, numbers->data(), numbers);
    double* const first = numbers->data();
    numbers.reset();
    CHECK_FALSE(alive.expired());
    const Tensor row = x.rows(1, 2);
    x = Tensor();
    CHECK(row.to_vector() == std::vector<double>{3.0, 4.0});
    row.write<double>()[0] = 7.0;
    CHECK(first[2] == 7.0);
    CHECK(row.version() == 1);
  }
  CHECK(alive.expired());
  std::vector<double> own = {1.0, 2.0};
  CHECK(Tensor::view({2}, DType::f64, Device::cpu, own.data(), nullptr).at(1) == 2.0);
  CHECK_THROWS_AS(
      Tensor::view({1}, DType::f64, Device::cpu, reinterpret_cast<char*>(own.data()) + 4, nullptr),
      Error);
}

TEST_CASE("an arena is used by the thread that asks for it, and by no other use within") {
  constexpr Device kCpu = Device::cpu;
  pool::Arena arena(kCpu);
  pool::Arena other(kCpu);
  const pool::Arena::Use use(arena);
  const std::byte* const place = Storage::allocate(7777, kCpu).data();
  const std::byte* elsewhere = nullptr;
  std::thread([&] { elsewhere = Storage::allocate(7777, kCpu).data(); }).join();
  CHECK(elsewhere != place);
  CHECK_THROWS_WITH_AS(
      pool::Arena::Use(other, true),
      "[storage] work with memory of its own begins within such work. Capture one of them.", Error);
  CHECK(Storage::allocate(7777, kCpu).data() == place);
}

TEST_CASE("the blocks of an arena are for its work alone, and the pool's when it is gone") {
  constexpr Device kCpu = Device::cpu;
  pool::release_cached(kCpu);
  std::byte* place = nullptr;
  Storage kept;
  {
    pool::Arena arena(kCpu);
    {
      const pool::Arena::Use use(arena);
      place = Storage::allocate(7777, kCpu).data();
      CHECK(Storage::allocate(7777, kCpu).data() == place);
    }
    CHECK(Storage::allocate(7777, kCpu).data() != place);
    const pool::Arena::Use use(arena, true);
    kept = Storage::allocate(7777, kCpu);
    CHECK(kept.data() == place);
    // What the pool has may be taken even then; more of the system may not.
    CHECK(Storage::allocate(7777, kCpu).data() != place);
    CHECK_THROWS_AS(Storage::allocate(99999, kCpu), Error);
  }
  CHECK(Storage::allocate(7777, kCpu).data() != place);
  kept = {};
  const std::uint64_t before = pool::stats(kCpu).system_allocations;
  const Storage a = Storage::allocate(7777, kCpu);
  const Storage b = Storage::allocate(7777, kCpu);
  CHECK((a.data() == place || b.data() == place));
  CHECK(pool::stats(kCpu).system_allocations == before);
}
