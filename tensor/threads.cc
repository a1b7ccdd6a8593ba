#include "tensor/threads.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>

#include <sched.h>
#include <unistd.h>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"
#include "tensor/parse.h"
#include "tensor/stop.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

constexpr int kMostThreads = 1024;
constexpr int kNoQuota = std::numeric_limits<int>::max();

// The first words of a file of the system; empty where there is none.
std::string first_line(const fs::path& path) {
  std::string line;
  std::getline(std::ifstream(path) >> std::ws, line);
  return line;
}

// quota / period, both in microseconds; "max" and -1 are no quota.
int quotient(const std::string& quota, const std::string& period) {
  const auto q = parse_number<std::int64_t>(quota, 1);
  const auto p = parse_number<std::int64_t>(period, 1);
  if (!q || !p) return kNoQuota;
  return static_cast<int>(std::clamp<std::int64_t>(*q / *p, 1, kMostThreads));
}

int quota_of(const fs::path& group) {
  std::istringstream both(first_line(group / "cpu.max"));
  std::string quota, period;
  if (both >> quota >> period) return quotient(quota, period);
  return quotient(first_line(group / "cpu.cfs_quota_us"), first_line(group / "cpu.cfs_period_us"));
}

// The least quota of a group and of all that hold it. A container may see its own group as the
// mount itself, while its name is that of the host: a folder that is not there has none.
int quota_up_from(const fs::path& mount, const fs::path& group) {
  int least = quota_of(mount);
  fs::path at = mount;
  for (const fs::path& part : group.relative_path()) {
    at /= part;
    least = std::min(least, quota_of(at));
  }
  return least;
}

int by_affinity() {
  cpu_set_t set;  // of the process, whichever thread asks
  if (::sched_getaffinity(::getpid(), sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

int first_threads() {
  const char* const text = std::getenv("MOEGRAD_THREADS");
  if (text == nullptr || *text == '\0') return processors();
  const auto n = parse_number<int>(text, 1, kMostThreads);
  if (!n) {
    fail("threads", "MOEGRAD_THREADS is '{}'. Give a number from 1 to {}, or unset it.", text,
         kMostThreads);
  }
  return *n;
}

thread_local int set_threads = 0;  // 0: not set

}  // namespace

int processors_by_quota(const fs::path& root) {
  std::ifstream groups(root / "proc/self/cgroup");
  const fs::path mounts = root / "sys/fs/cgroup";
  int least = kNoQuota;
  std::string line;  // HIERARCHY:CONTROLLERS:PATH, the controllers empty for version 2
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    if (controllers.empty()) {
      least = std::min(least, quota_up_from(mounts, group));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      for (const fs::path& name : {fs::path(controllers), fs::path("cpu")}) {
        least = std::min(least, quota_up_from(mounts / name, group));
      }
    }
  }
  return least;
}

int processors() { return std::max(1, std::min(by_affinity(), processors_by_quota("/"))); }

int threads() {
  if (set_threads > 0) return set_threads;
  static const int first = first_threads();
  return first;
}

ThreadScope::ThreadScope(int threads) : before_(set_threads) {
  if (threads > 0) set_threads = std::min(threads, kMostThreads);
}
ThreadScope::~ThreadScope() { set_threads = before_; }

void parallel_on_host(std::int64_t n, std::int64_t grain,
                      const std::function<void(std::int64_t, std::int64_t)>& f) {
  const std::int64_t pieces = n <= 0 ? 0 : (n + grain - 1) / grain;
  const Stop stop = StopScope::current();
  cpu::parallel_pieces(pieces, [&](std::int64_t piece, int) {
    const StopScope scope(stop);
    f(piece * grain, std::min(n, (piece + 1) * grain));
  });
}

}  // namespace moegrad
