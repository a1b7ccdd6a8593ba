// Products of f32 with TF32 and bf16: within the rounding of their operands of those of the numbers
// themselves, and within that of sums in f32 of those of the rounded numbers.
#include <cstdlib>

#include "tests/kernels/rounded.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Sizes {
  std::int64_t m, n, k;
};
// Empty ones, vectors, odd ones, several of the small and of the large tiles, and sums of several
// pieces; rows that begin at multiples of 16 bytes and others.
const std::vector<Sizes> kSizes = {{0, 3, 4},    {3, 0, 4},      {3, 4, 0},    {1, 1, 1},
                                   {1, 9, 5},    {9, 1, 5},      {7, 5, 3},    {33, 31, 37},
                                   {64, 64, 16}, {8, 200, 100},  {130, 65, 9}, {66, 140, 50},
                                   {5, 6, 2500}, {129, 72, 136}, {4, 8, 4096}};

std::vector<Sum> product(Sizes s, const Tensor& a, bool ta, const Tensor& b, bool tb) {
  std::vector<Sum> out(at(s.m * s.n));
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t l = 0; l < s.k; ++l) {
      const double a_il = a.data<float>()[ta ? l * s.m + i : i * s.k + l];
      for (std::int64_t j = 0; j < s.n; ++j) {
        out[at(i * s.n + j)].add(a_il, b.data<float>()[tb ? j * s.k + l : l * s.n + j]);
      }
    }
  }
  return out;
}

// That of the rounded numbers. cuBLAS rounds half-way cases of TF32 to even, and multiplies some small
// matrices exactly.
std::vector<Sum> rounded_product(Maths maths, Sizes s, const Tensor& a, bool ta, const Tensor& b,
                                 bool tb) {
  static const char* const kWho = std::getenv("MOEGRAD_CUDA_PRODUCTS");
  static const bool kOwn = kWho == nullptr || std::string(kWho) == "own";
  std::vector<Sum> out = product(s, rounded(a, maths), ta, rounded(b, maths), tb);
  if (kOwn || maths != Maths::tf32) return out;
  const std::vector<Sum> exact = product(s, a, ta, b, tb);
  const std::vector<Sum> even =
      product(s, each(a, rounded_to_even), ta, each(b, rounded_to_even), tb);
  for (std::size_t i = 0; i < out.size(); ++i) out[i].others = {exact[i].value, even[i].value};
  return out;
}

Shape matrix(std::int64_t rows, std::int64_t cols, bool transposed) {
  return transposed ? Shape{cols, rows} : Shape{rows, cols};
}

// What is checked of a product of these two.
struct Bounds {
  double of_numbers, of_rounded;
};
Bounds bounds(Maths maths, std::int64_t depth) {
  const double u = unit(maths);
  const double sum = sum_error(maths, depth);
  return {2 * u + u * u + sum * (1 + u) * (1 + u), sum};
}

}  // namespace

MATHS_TEST("maths: matrix products in every orientation") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const Sizes s : kSizes) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          CAPTURE(name_of(maths));
          CAPTURE(s.m);
          CAPTURE(s.n);
          CAPTURE(s.k);
          CAPTURE(ta);
          CAPTURE(tb);
          const Tensor a = random(matrix(s.m, s.k, ta), DType::f32, 1);
          const Tensor b = random(matrix(s.k, s.n, tb), DType::f32, 2);
          const Tensor got = on.run({s.m, s.n}, DType::f32, [&](const Tensor& out) {
            on->matmul(on(a), ta, on(b), tb, 0.0, out);
          });
          const Bounds most = bounds(maths, s.k);
          check_sums(got, product(s, a, ta, b, tb), most.of_numbers);
          check_sums(got, rounded_product(maths, s, a, ta, b, tb), most.of_rounded);
        }
      }
    }
  }
}

MATHS_TEST("maths: operands are rounded, and the exact ones stay exact") {
  const Sizes s{20, 30, 40};
  const Tensor a = random({s.m, s.k}, DType::f32, 1);
  const Tensor b = random({s.k, s.n}, DType::f32, 2);
  const auto error = [&](Maths maths) {
    const MathsScope scope(maths);
    const Tensor out = Tensor::empty({s.m, s.n}, DType::f32, on.device);
    on->matmul(on(a), false, on(b), false, 0.0, out);
    const std::vector<Sum> want = product(s, a, false, b, false);
    const Values got = out.to_vector();
    double worst = 0.0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      worst = std::fmax(worst, std::abs(got[i] - want[i].value) / want[i].size);
    }
    return worst;
  };
  CHECK(error(Maths::exact) < 1e-6);
  CHECK(error(Maths::tf32) > 1e-5);
  CHECK(error(Maths::bf16) > 1e-4);
  CHECK(maths() == Maths::exact);
}

MATHS_TEST("maths: a product may be added to a multiple of what is there") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const Sizes s : {Sizes{33, 31, 37}, Sizes{66, 140, 50}, Sizes{5, 6, 2500}}) {
      for (const double beta : {1.0, -0.5}) {
        const Tensor a = random({s.m, s.k}, DType::f32, 1);
        const Tensor b = random({s.k, s.n}, DType::f32, 2);
        const Tensor c = random({s.m, s.n}, DType::f32, 3);
        std::vector<Sum> want = rounded_product(maths, s, a, false, b, false);
        for (std::size_t i = 0; i < want.size(); ++i) {
          want[i].add(beta, c.at(static_cast<std::int64_t>(i)));
        }
        check_sums(on.run({s.m, s.n}, DType::f32,
                          [&](const Tensor& out) {
                            on->copy(on(c), out);
                            on->matmul(on(a), false, on(b), false, beta, out);
                          }),
                   want, sum_error(maths, s.k));
      }
    }
  }
}

MATHS_TEST("maths: batches, of two batches or of one and a matrix") {
  const std::int64_t batch = 3;
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const Sizes s : {Sizes{5, 4, 0}, Sizes{3, 4, 5}, Sizes{70, 90, 20}}) {
      for (int orientation = 0; orientation < 4; ++orientation) {
        for (const auto& [batch_a, batch_b] :
             {std::pair{true, true}, std::pair{true, false}, std::pair{false, true}}) {
          const bool ta = orientation % 2 == 1;
          const bool tb = orientation / 2 == 1;
          const auto shape = [](bool batched, const Shape& one) {
            return batched ? Shape{batch, one[0], one[1]} : one;
          };
          const Tensor a = random(shape(batch_a, matrix(s.m, s.k, ta)), DType::f32, 1);
          const Tensor b = random(shape(batch_b, matrix(s.k, s.n, tb)), DType::f32, 2);
          const auto part = [](const Tensor& t, bool batched, std::int64_t i) {
            const Tensor r = t.reshape({batched ? batch : 1, t.numel() / (batched ? batch : 1)});
            return batched ? r.rows(i, i + 1) : r;
          };
          std::vector<Sum> want;
          for (std::int64_t i = 0; i < batch; ++i) {
            const std::vector<Sum> one =
                rounded_product(maths, s, part(a, batch_a, i), ta, part(b, batch_b, i), tb);
            want.insert(want.end(), one.begin(), one.end());
          }
          check_sums(on.run({batch, s.m, s.n}, DType::f32,
                            [&](const Tensor& out) { on->matmul(on(a), ta, on(b), tb, 0.0, out); }),
                     want, sum_error(maths, s.k));
        }
      }
    }
  }
}

MATHS_TEST("maths: matrices may begin anywhere") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    const Sizes s{8, 12, 20};
    const Tensor a = random({s.m * s.k + 1}, DType::f32, 1);
    const Tensor b = random({s.k * s.n + 3}, DType::f32, 2);
    const auto matrix_of = [](const Tensor& t, std::int64_t rows, std::int64_t cols) {
      return t.rows(t.size(0) - rows * cols, t.size(0)).reshape({rows, cols});
    };
    for (const bool transposed : {false, true}) {
      const auto [ra, ca] = transposed ? std::pair{s.k, s.m} : std::pair{s.m, s.k};
      const auto [rb, cb] = transposed ? std::pair{s.n, s.k} : std::pair{s.k, s.n};
      const Tensor there_a = on(a);
      const Tensor there_b = on(b);
      check_sums(on.run({s.m, s.n}, DType::f32,
                        [&, ra = ra, ca = ca, rb = rb, cb = cb](const Tensor& out) {
                          on->matmul(matrix_of(there_a, ra, ca), transposed,
                                     matrix_of(there_b, rb, cb), transposed, 0.0, out);
                        }),
                 rounded_product(maths, s, matrix_of(a, ra, ca), transposed, matrix_of(b, rb, cb),
                                 transposed),
                 sum_error(maths, s.k));
    }
  }
}

MATHS_TEST("maths: a NaN or an infinity reaches the whole of its row and no other") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const double bad : {std::nan(""), HUGE_VAL}) {
      for (const std::int64_t n : {3, 64, 70}) {
        const Tensor a = on(random({n, n}, DType::f32, 1));
        on->fill(bad, a.rows(1, 2));
        const Tensor out = Tensor::empty({n, n}, DType::f32, on.device);
        on->matmul(a, false, on(random({n, n}, DType::f32, 2)), false, 0.0, out);
        const Values got = out.to_vector();
        for (std::int64_t i = 0; i < n * n; ++i) CHECK(std::isfinite(got[at(i)]) == (i / n != 1));
      }
    }
  }
}

MATHS_TEST("maths: products of f64 are refused, and what is exact is not") {
  const Tensor a = on(random({3, 3}, DType::f64, 1));
  const Tensor out = Tensor::empty({3, 3}, DType::f64, on.device);
  const auto error = [&] { return on.error_of([&] { on->matmul(a, false, a, false, 0.0, out); }); };
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    CHECK(error() == "[matmul] maths is " + std::string(name_of(maths)) +
                         ", for products of f32, and these are of f64. Use exact.");
  }
  CHECK(error() == "");
}
