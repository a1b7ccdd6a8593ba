#include "tensor/cpu/parallel.h"

#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/threads.h"

using namespace moegrad;

namespace {

using Pieces = std::set<std::pair<std::int64_t, std::int64_t>>;

Pieces pieces_of(std::int64_t n, std::int64_t grain) {
  Pieces pieces;
  std::mutex mutex;
  cpu::parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    CHECK(pieces.emplace(begin, end).second);
  });
  return pieces;
}

}  // namespace

TEST_CASE("the pieces do not depend on the number of threads") {
  for (const int n : {1, 2, 3}) {
    const ThreadScope threads(n);
    CHECK(pieces_of(0, 4).empty());
    CHECK(pieces_of(4, 4) == Pieces{{0, 4}});
    CHECK(pieces_of(9, 4) == Pieces{{0, 4}, {4, 8}, {8, 9}});
  }
}

TEST_CASE("one piece starts no region") {
  const ThreadScope threads(3);
  cpu::parallel_for(10, 10, [](std::int64_t, std::int64_t) { CHECK(cpu::workers() == 3); });
  cpu::parallel_pieces(1, [](std::int64_t, int worker) {
    CHECK(cpu::workers() == 3);
    CHECK(worker == 0);
  });
}

TEST_CASE("every piece is run once by a worker of the right number") {
  const ThreadScope threads(3);
  std::vector<int> runs(1000, 0);
  std::atomic<int> strays{0};
  cpu::parallel_pieces(1000, [&](std::int64_t piece, int worker) {
    ++runs[static_cast<std::size_t>(piece)];
    if (worker < 0 || worker >= 3) ++strays;
    // Within a region there is one worker, and nested work stays on it.
    if (cpu::workers() != 1) ++strays;
    const auto here = std::this_thread::get_id();
    cpu::parallel_for(4, 1, [&](std::int64_t begin, std::int64_t) {
      if (std::this_thread::get_id() != here || begin > 3) ++strays;
    });
    cpu::parallel_pieces(2, [&](std::int64_t, int nested) {
      if (nested != 0) ++strays;
    });
  });
  CHECK(strays == 0);
  CHECK(runs == std::vector<int>(1000, 1));
}

TEST_CASE("an exception leaves the region") {
  for (const int n : {1, 3}) {
    const ThreadScope threads(n);
    CHECK_THROWS_WITH_AS(cpu::parallel_for(100, 1,
                                           [](std::int64_t begin, std::int64_t) {
                                             if (begin >= 50) throw std::runtime_error("half");
                                           }),
                         "half", std::runtime_error);
    CHECK_THROWS_AS(
        cpu::parallel_pieces(100, [](std::int64_t, int) { throw std::runtime_error("all"); }),
        std::runtime_error);
  }
}
