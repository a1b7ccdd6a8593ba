// Chapter 7: two estimators beside the conventional gradient, each trained with the same eight seeds.
// Is the loss of either really another?
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <unistd.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

constexpr int kSeeds = 8;
constexpr double kMargin = 0.005;  // differences below it do not matter to us

// The test loss of one run.
double trained(const std::string& estimator, int seed) {
  TrainConfig config;
  config.task = "synthetic";
  config.estimator = estimator;
  config.width = 16;
  config.hidden = 16;
  config.epochs = 10;
  config.seed = seed;
  // A folder of this process: two may run at a time.
  const auto out =
      std::filesystem::temp_directory_path() / fmt::format("moegrad-course-7-{}", ::getpid());
  const double loss = train(config, {.out = out, .force = true}).test.loss;
  std::filesystem::remove_all(out);
  return loss;
}

// The standard error of mean(a) - mean(b), had the two lists nothing to do with each other.
double unpaired_error(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (const auto& list : {a, b}) {
    double mean = 0.0;
    for (const double v : list) mean += v / static_cast<double>(list.size());
    double squares = 0.0;
    for (const double v : list) squares += (v - mean) * (v - mean);
    sum += squares / static_cast<double>(list.size() * (list.size() - 1));
  }
  return std::sqrt(sum);
}

}  // namespace

int main() {
  const std::vector<std::string> names = {"sparse", "expert-group", "ste-dense"};
  std::vector<std::vector<double>> losses(names.size());
  fmt::print("test loss\nseed  sparse  expert-group          ste-dense\n");
  for (int seed = 1; seed <= kSeeds; ++seed) {
    for (std::size_t m = 0; m < names.size(); ++m) losses[m].push_back(trained(names[m], seed));
    const double base = losses[0].back();
    fmt::print("{:<4}  {:.4f}  {:.4f} ({:+.4f})  {:.4f} ({:+.4f})\n", seed, base, losses[1].back(),
               losses[1].back() - base, losses[2].back(), losses[2].back() - base);
  }

  fmt::print("\nless sparse   seeds     mean   error  unpaired  95 % interval       verdict\n");
  for (std::size_t m = 1; m < names.size(); ++m) {
    for (const std::size_t n : {2U, 4U, 8U}) {
      const auto a = std::span(losses[m]).first(n);
      const auto b = std::span(losses[0]).first(n);
      const PairedDifference d = paired_difference(a, b, kMargin);
      fmt::print("{:<12}  {:>5}  {:>7.4f}  {:.4f}    {:.4f}  [{:>7.4f}, {:>6.4f}]  {}\n", names[m],
                 n, d.mean, d.error, unpaired_error(a, b), d.low, d.high,
                 name_of(compared(d, d.p_different, d.p_equivalent)));
    }
  }

  // Two questions were asked of the eight seeds: each p-value pays for both.
  std::vector<double> p;
  std::vector<PairedDifference> all;
  for (std::size_t m = 1; m < names.size(); ++m) {
    all.push_back(paired_difference(losses[m], losses[0], kMargin));
    p.push_back(all.back().p_different);
  }
  const std::vector<double> corrected = holm(p);
  fmt::print("\n8 seeds       p       by Holm  seeds to see {}\n", kMargin);
  for (std::size_t m = 1; m < names.size(); ++m) {
    fmt::print("{:<12}  {:.4f}  {:.4f}   {:.0f}\n", names[m], p[m - 1], corrected[m - 1],
               std::ceil(seeds_needed(all[m - 1].deviation, kMargin)));
  }
  return corrected[1] < 0.05 && all[0].error > 0.0 ? 0 : 1;
}
