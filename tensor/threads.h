#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

namespace moegrad {

// How many threads kernels that are called from this thread may use; results do not depend on it.
// At first: MOEGRAD_THREADS of the environment, or else processors().
int threads();

// Sets the number for calls from this thread, at most 1024, and puts it back; 0 changes nothing.
// More threads than processors are never started.
class ThreadScope {
 public:
  explicit ThreadScope(int threads);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

// Calls f(begin, end) for the pieces of [0, n) of `grain` items each, on up to threads() threads at
// once, handed out as they become free: for work on the host that is no kernel's.
void parallel_on_host(std::int64_t n, std::int64_t grain,
                      const std::function<void(std::int64_t begin, std::int64_t end)>& f);

// How many processors this process may keep busy: those of its affinity mask, and no more than the
// quotas of its control groups give (Linux: cpu.max, or cpu.cfs_quota_us over cpu.cfs_period_us,
// rounded down); at least 1.
int processors();

// What the quotas alone give, rounded down, at least 1; a large number where there is none. `root`
// is where /proc and /sys are found.
int processors_by_quota(const std::filesystem::path& root);

}  // namespace moegrad
