#include "tensor/threads.h"

#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;

namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

constexpr int kNone = std::numeric_limits<int>::max();

}  // namespace

TEST_CASE("the number of threads is set for calls from one thread, and put back") {
  const int before = threads();
  CHECK(before >= 1);
  {
    const ThreadScope five(5);
    CHECK(threads() == 5);
    const ThreadScope same(0);
    CHECK(threads() == 5);
    std::thread([before] { CHECK(threads() == before); }).join();
    {
      const ThreadScope two(2);
      CHECK(threads() == 2);
    }
    CHECK(threads() == 5);
  }
  {
    const ThreadScope too_many(2000000000);
    CHECK(threads() == 1024);
  }
  CHECK(threads() == before);
}

TEST_CASE("processors are those of the affinity mask") {
  CHECK(processors() >= 1);
  CHECK(processors() <= static_cast<int>(std::thread::hardware_concurrency()));
  cpu_set_t all, one;
  REQUIRE(::sched_getaffinity(0, sizeof all, &all) == 0);
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  }
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(processors() == 1);
  REQUIRE(::sched_setaffinity(0, sizeof all, &all) == 0);
}

TEST_CASE("quotas of control groups, version 2: the least on the way up") {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path();
  CHECK(processors_by_quota(root) == kNone);  // no control groups at all
  write(root / "proc/self/cgroup", "0::/user/job\n");
  CHECK(processors_by_quota(root) == kNone);
  const fs::path groups = root / "sys/fs/cgroup";
  write(groups / "user/job/cpu.max", "max 100000\n");
  CHECK(processors_by_quota(root) == kNone);
  write(groups / "user/job/cpu.max", "350000 100000\n");
  CHECK(processors_by_quota(root) == 3);
  write(groups / "user/cpu.max", "400000 200000\n");
  CHECK(processors_by_quota(root) == 2);
  write(groups / "user/cpu.max", "50000 100000\n");
  CHECK(processors_by_quota(root) == 1);
  write(groups / "user/cpu.max", "what is this\n");
  CHECK(processors_by_quota(root) == 3);
  // In a container of its own the name may be that of the host, and the mount is the group.
  write(root / "proc/self/cgroup", "0::/../../docker/1234\n");
  write(groups / "cpu.max", "200000 100000\n");
  CHECK(processors_by_quota(root) == 2);
  write(groups / "cpu.max", "9223372036854775807 1\n");
  CHECK(processors_by_quota(root) == 1024);
}

TEST_CASE("quotas of control groups, version 1") {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path();
  write(root / "proc/self/cgroup", "12:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/\n");
  const fs::path group = root / "sys/fs/cgroup/cpu,cpuacct/job";
  write(group / "cpu.cfs_quota_us", "-1\n");
  write(group / "cpu.cfs_period_us", "100000\n");
  CHECK(processors_by_quota(root) == kNone);
  write(group / "cpu.cfs_quota_us", "250000\n");
  CHECK(processors_by_quota(root) == 2);
  write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(processors_by_quota(root) == 1);
}
