#include <numbers>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const Rng kRng{9, 4, 3};  // an odd position: pairs of numbers straddle blocks
const std::vector<std::int64_t> kSizes = {0, 1, 2, 17, 5001};

// Mean and variance of the elements.
std::pair<double, double> moments(const Tensor& t) {
  double sum = 0.0;
  double squares = 0.0;
  for (const double v : t.to_vector()) {
    sum += v;
    squares += v * v;
  }
  const auto n = static_cast<double>(t.numel());
  return {sum / n, squares / n - sum / n * (sum / n)};
}

}  // namespace

TEST_CASE("random tensors are the numbers of the generator") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      Values uniform, normal, gumbel;
      for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) {
        uniform.push_back(-1.0 + 3.0 * kRng.uniform(i));
        normal.push_back(5.0 + 0.5 * std::sqrt(-2.0 * std::log(kRng.uniform(2 * i))) *
                                   std::cos(2.0 * std::numbers::pi * kRng.uniform(2 * i + 1)));
        gumbel.push_back(-std::log(-std::log(kRng.uniform(i))));
      }
      check_close(run_on({n}, dtype,
                         [](const Tensor& out) { cpu_kernels().random_uniform(kRng, -1, 2, out); }),
                  uniform);
      check_close(run_on({n}, dtype,
                         [](const Tensor& out) { cpu_kernels().random_normal(kRng, 5, 0.5, out); }),
                  normal);
      check_close(
          run_on({n}, dtype, [](const Tensor& out) { cpu_kernels().random_gumbel(kRng, out); }),
          gumbel);
    }
  }
}

TEST_CASE("the moments are those of the distributions") {
  constexpr std::int64_t kCount = 40000;
  const double error = 4.0 / std::sqrt(static_cast<double>(kCount));  // four standard errors
  const Tensor t = Tensor::empty({kCount}, DType::f64, Device::cpu);
  cpu_kernels().random_normal(kRng, 1.0, 2.0, t);
  CHECK(std::abs(moments(t).first - 1.0) < 2.0 * error);
  CHECK(std::abs(moments(t).second - 4.0) < 4.0 * std::sqrt(2.0) * error);
  cpu_kernels().random_gumbel(kRng, t);
  const double variance = std::numbers::pi * std::numbers::pi / 6.0;
  CHECK(std::abs(moments(t).first - std::numbers::egamma) < std::sqrt(variance) * error);
  CHECK(std::abs(moments(t).second - variance) < variance * std::sqrt(4.4) * error);
  cpu_kernels().random_uniform(kRng, -1.0, 1.0, t);
  CHECK(std::abs(moments(t).first) < std::sqrt(1.0 / 3.0) * error);
  CHECK(std::abs(moments(t).second - 1.0 / 3.0) < error / 3.0);
}

TEST_CASE("the upper end of the interval is never reached") {
  // Between 1 and the next f32 there is no other: rounding would give the end half of the time.
  const float next = std::nextafter(1.0F, 2.0F);
  const Tensor t = Tensor::empty({100}, DType::f32, Device::cpu);
  cpu_kernels().random_uniform(kRng, 1.0, static_cast<double>(next), t);
  check_close(t, Values(100, 1.0), 0.0);
  cpu_kernels().random_uniform(kRng, 2.0, 2.0, t);
  check_close(t, Values(100, 2.0), 0.0);
}

TEST_CASE("dropout keeps what its numbers say and scales it") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      const Tensor x = random({n}, dtype, 1);
      for (const double p : {0.0, 0.3, 1.0}) {
        Values want;
        for (std::int64_t i = 0; i < n; ++i) {
          const bool kept = kRng.uniform(static_cast<std::uint64_t>(i)) >= p;
          want.push_back(kept ? x.at(i) / (1.0 - p) : 0.0);
        }
        check_close(
            run_on({n}, dtype, [&](const Tensor& out) { cpu_kernels().dropout(kRng, p, x, out); }),
            want);
      }
    }
  }
}
