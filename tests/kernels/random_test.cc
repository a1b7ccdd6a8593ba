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

KERNEL_TEST("random tensors are the numbers of the generator") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      Values uniform, normal, gumbel;
      for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) {
        uniform.push_back(-1.0 + 3.0 * kRng.uniform(i));
        normal.push_back(5.0 + 0.5 * std::sqrt(-2.0 * std::log(kRng.uniform(2 * i))) *
                                   std::cos(2.0 * std::numbers::pi * kRng.uniform(2 * i + 1)));
        gumbel.push_back(-std::log(-std::log(kRng.uniform(i))));
      }
      check_close(
          on.run({n}, dtype, [&](const Tensor& out) { on->random_uniform(kRng, -1, 2, out); }),
          uniform);
      check_close(
          on.run({n}, dtype, [&](const Tensor& out) { on->random_normal(kRng, 5, 0.5, out); }),
          normal);
      check_close(on.run({n}, dtype, [&](const Tensor& out) { on->random_gumbel(kRng, out); }),
                  gumbel);
    }
  }
}

KERNEL_TEST("the moments are those of the distributions") {
  constexpr std::int64_t kCount = 40000;
  const double error = 4.0 / std::sqrt(static_cast<double>(kCount));  // four standard errors
  const Tensor t = Tensor::empty({kCount}, DType::f64, on.device);
  on->random_normal(kRng, 1.0, 2.0, t);
  CHECK(std::abs(moments(t).first - 1.0) < 2.0 * error);
  CHECK(std::abs(moments(t).second - 4.0) < 4.0 * std::sqrt(2.0) * error);
  on->random_gumbel(kRng, t);
  const double variance = std::numbers::pi * std::numbers::pi / 6.0;
  CHECK(std::abs(moments(t).first - std::numbers::egamma) < std::sqrt(variance) * error);
  CHECK(std::abs(moments(t).second - variance) < variance * std::sqrt(4.4) * error);
  on->random_uniform(kRng, -1.0, 1.0, t);
  CHECK(std::abs(moments(t).first) < std::sqrt(1.0 / 3.0) * error);
  CHECK(std::abs(moments(t).second - 1.0 / 3.0) < error / 3.0);
}

KERNEL_TEST("the upper end of the interval is never reached") {
  // Between 1 and the next f32 there is no other: rounding would give the end half of the time.
  const float next = std::nextafter(1.0F, 2.0F);
  const Tensor t = Tensor::empty({100}, DType::f32, on.device);
  on->random_uniform(kRng, 1.0, static_cast<double>(next), t);
  check_close(t, Values(100, 1.0), 0.0);
  on->random_uniform(kRng, 2.0, 2.0, t);
  check_close(t, Values(100, 2.0), 0.0);
}

KERNEL_TEST("dropout keeps what its numbers say and scales it") {
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
            on.run({n}, dtype, [&](const Tensor& out) { on->dropout(kRng, p, on(x), out); }), want);
      }
    }
  }
}

KERNEL_TEST("one place of each row is drawn, by the running sum of its probabilities") {
  const Rng rng{9, 3, 5};
  for (const DType dtype : floating()) {
    for (const auto& [rows, cols] :
         {std::pair<std::int64_t, std::int64_t>{0, 3}, {1, 1}, {5, 2}, {9001, 6}}) {
      Tensor p = random({rows, cols}, DType::f64, 4, 0.0, 1.0);
      for (std::int64_t r = 0; r < rows; ++r) {
        double* const row = p.write<double>() + r * cols;
        if (cols > 2) row[r % cols] = 0.0;
        double sum = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) sum += row[c];
        for (std::int64_t c = 0; c < cols; ++c) row[c] /= sum;
      }
      p = p.to(dtype);
      Values want;
      for (std::int64_t r = 0; r < rows; ++r) {
        double sum = 0.0;
        std::int64_t taken = -1;
        for (std::int64_t c = 0; c < cols; ++c) {
          if (p.at(r * cols + c) > 0.0 && sum <= rng.uniform(static_cast<std::uint64_t>(r))) {
            taken = c;
          }
          sum += p.at(r * cols + c);
        }
        want.push_back(static_cast<double>(taken));
      }
      const Tensor there = on(p);
      check_close(
          on.run({rows}, DType::i32, [&](const Tensor& out) { on->sample_rows(rng, there, out); }),
          want, 0.0);
    }
  }
  // What is never drawn: an impossible place at the end, though rounding leaves the sum below 1.
  const Tensor p = on(Tensor::of<double>({1, 3}, {0.999999, 0.0, 0.0}));
  const Tensor out = Tensor::empty({1}, DType::i32, on.device);
  for (std::uint64_t i = 0; i < 100; ++i) {
    on->sample_rows({1, i, 0}, p, out);
    CHECK(out.item() == 0.0);
  }
}

KERNEL_TEST("rows that are no distribution are errors") {
  const Tensor out = Tensor::empty({1}, DType::i32, on.device);
  struct Case {
    Values row;
    std::string error;
  };
  for (const Case& c :
       {Case{{0.5, 0.25}, "row 0 has probabilities that add up to 0.75. Divide by the sum."},
        Case{{1.5, -0.5}, "row 0 holds the probability -0.5. Use 0 or more."},
        Case{{0.0, 0.0}, "row 0 holds no positive probability. Give each row a sum of 1."},
        Case{{std::nan(""), 1.0}, "row 0 holds the probability nan. Use 0 or more."}}) {
    const Tensor p = on(Tensor::of({1, 2}, c.row));
    CHECK(on.error_of([&] { on->sample_rows({1, 0, 0}, p, out); }) == "[categorical] " + c.error);
  }
}

KERNEL_TEST("integers by index: the bits of that number, modulo n") {
  const Rng rng{9, 4, 7};
  const Tensor index = random_integers({5000}, 2, 0, 1 << 30);
  Values want;
  for (std::int64_t i = 0; i < 5000; ++i) {
    want.push_back(static_cast<double>(rng.bits(static_cast<std::uint64_t>(index.at(i))) % 11));
  }
  const Tensor there = on(index);
  check_close(on.run({5000, 1}, DType::i32,
                     [&](const Tensor& out) { on->random_integers(rng, there, 11, out); }),
              want, 0.0);
  const Tensor bad = on(Tensor::of<std::int32_t>({1}, {-1}));
  CHECK(on.error_of([&] { on->random_integers(rng, bad, 3, bad.like()); }) != "");
}
