// Reads damaged files for a while. The same seed gives the same inputs, one after the other.
//
//   moegrad_fuzz FOLDER inputs N [SEED]      N inputs of each target
//   moegrad_fuzz FOLDER seconds S [SEED]     S seconds of each target
//   moegrad_fuzz FOLDER replay TARGET FILE   one input again
//
// A finding ends it with 1: an exception that is no moegrad::Error, a message that is not one clean
// line, more memory than kMostBytes and kMostForByte times the input, an input that takes longer
// than kMostSeconds. What ends the program itself (a signal, a sanitizer) is one too. The input is
// in FOLDER/TARGET.input then.

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <set>

#include <fmt/core.h>
#include <malloc.h>

#include "targets.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/parse.h"
#include "tensor/rng.h"
#include "tensor/storage.h"

// Everything but the pool's blocks comes through here, and is counted.
namespace {
std::atomic<std::size_t> bytes_live{0};
std::atomic<std::size_t> bytes_peak{0};
}  // namespace

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) return nullptr;
  const std::size_t live = bytes_live += ::malloc_usable_size(memory);
  if (live > bytes_peak) bytes_peak = live;
  return memory;
}
void* operator new(std::size_t size) {
  void* const memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept {
  if (memory != nullptr) bytes_live -= ::malloc_usable_size(memory);
  std::free(memory);
}
// All of them: a sanitizer has its own of those that are left out, and they do not go together.
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t& none) noexcept {
  return operator new(size, none);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { operator delete(memory); }
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete[](void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { operator delete(memory); }

namespace moegrad::fuzz {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostBytes = std::size_t{16} << 20;
constexpr std::size_t kMostForByte = 1100;  // gzip makes 1032 bytes of one
constexpr double kMostSeconds = 20.0;
constexpr std::size_t kCorpus = 300;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A message without what varies: numbers, and what is quoted. A new one is a new path.
std::string path_of(const std::string& message) {
  std::string path;
  bool quoted = false;
  for (const char c : message) {
    if (c == '\'') quoted = !quoted;
    if (!quoted && std::isdigit(static_cast<unsigned char>(c)) == 0) path += c;
  }
  return path.substr(0, 120);
}

bool clean(const std::string& message) {
  return message.size() < 20'000 && std::ranges::all_of(message, [](char c) {
           return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
         });
}

// What was found, empty where all is well; `path` gets what the reader said.
std::string finding(const Target& target, const fs::path& file, std::size_t size,
                    std::string& path) {
  pool::release_cached(Device::cpu);
  pool::reset_peak(Device::cpu);
  const std::size_t pool_before = pool::stats(Device::cpu).bytes_in_use;
  const std::size_t before = bytes_live;
  bytes_peak = before;
  const Clock::time_point start = Clock::now();
  path = "accepted";
  try {
    target.read(file);
  } catch (const Error& error) {
    path = path_of(error.what());
    if (!clean(error.what()))
      return fmt::format("a message that is not one line: {}", error.what());
  } catch (const std::exception& error) {
    return fmt::format("another exception: {}", error.what());
  }
  const std::size_t bytes =
      bytes_peak - before + pool::stats(Device::cpu).peak_bytes_in_use - pool_before;
  if (bytes > kMostBytes + kMostForByte * size) return fmt::format("{} bytes of memory", bytes);
  if (seconds_since(start) > kMostSeconds) return fmt::format("{} s", seconds_since(start));
  return "";
}

// Not synchronised with the disk, as write_file_atomic is: there are many.
void write_input(const fs::path& file, const std::string& bytes) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  if (!(out << bytes << std::flush)) fail("fuzz", "cannot write '{}'.", file.string());
}

bool report(const Target& target, const fs::path& file, const std::string& found) {
  if (found.empty()) return true;
  fmt::print(stderr, "[fuzz] {}: {}\n[fuzz] the input: {}\n", target.name, found, file.string());
  return false;
}

struct Limits {
  std::int64_t inputs = kHighest<std::int64_t>;
  double seconds = kHighest<double>;
  std::uint64_t seed = 1;
};

bool fuzz(const Target& target, const fs::path& folder, const Limits& limits) {
  const fs::path file = folder / (std::string(target.name) + ".input");
  std::vector<std::string> corpus = target.seeds();
  const std::size_t seeds = corpus.size();
  std::set<std::string> paths;
  std::string path;
  for (const std::string& input : corpus) {
    write_input(file, input);
    if (!report(target, file, finding(target, file, input.size(), path))) return false;
    paths.insert(path);
  }
  const Clock::time_point start = Clock::now();
  std::uint64_t i = 0;
  for (; i < static_cast<std::uint64_t>(limits.inputs); ++i) {
    if (seconds_since(start) > limits.seconds) break;
    // Every second one is near what is accepted: most of the corpus ends at the first checks.
    const Rng rng{limits.seed, i, 0};
    const std::size_t from = rng.bits(0) % 2 == 0 ? seeds : corpus.size();
    const std::string input = target.change(corpus[rng.bits(1) % from], limits.seed, i);
    write_input(file, input);
    if (!report(target, file, finding(target, file, input.size(), path))) return false;
    if (paths.insert(path).second && corpus.size() < kCorpus && input.size() < 65'536) {
      corpus.push_back(input);
    }
  }
  fmt::print("[fuzz] {}: {} inputs, {} different answers, nothing found\n", target.name, i,
             paths.size());
  return true;
}

int usage() {
  fmt::print(
      stderr,
      "[fuzz] moegrad_fuzz FOLDER inputs N [SEED] | seconds S [SEED] | replay TARGET FILE\n");
  return 2;
}

int run(const std::vector<std::string>& words) {
  if (words.size() < 3 || words.size() > 4) return usage();
  const fs::path folder = words[0];
  fs::create_directories(folder);
  if (words[1] == "replay" && words.size() == 4) {
    for (const Target& target : targets()) {
      if (words[2] != target.name) continue;
      std::string path;
      const bool good =
          report(target, words[3], finding(target, words[3], fs::file_size(words[3]), path));
      if (good) fmt::print("[fuzz] {}: {}\n", target.name, path);
      return good ? 0 : 1;
    }
    return usage();
  }
  Limits limits;
  const auto seed = parse_number<std::uint64_t>(words.size() == 4 ? words[3] : "1");
  const auto inputs = parse_number<std::int64_t>(words[2], 1);
  const auto seconds = parse_number<double>(words[2], 0.0);
  if (!seed || !(words[1] == "inputs" ? inputs.has_value() : seconds.has_value())) return usage();
  limits.seed = *seed;
  if (words[1] == "inputs") {
    limits.inputs = *inputs;
  } else if (words[1] == "seconds") {
    limits.seconds = *seconds;
  } else {
    return usage();
  }
  for (const Target& target : targets()) {
    if (!fuzz(target, folder, limits)) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace moegrad::fuzz

int main(int argc, char** argv) {
  return moegrad::fuzz::run(std::vector<std::string>(argv + 1, argv + argc));
}
