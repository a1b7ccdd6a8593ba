#include <algorithm>
#include <cmath>

#include "tensor/cpu/product.h"
#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Sizes {
  std::int64_t m, n, k;
};
// Empty ones, vectors, odd ones, and products of several tiles in rows, in columns and in both.
const std::vector<Sizes> kSizes = {{0, 3, 4},     {3, 0, 4},     {3, 4, 0},      {1, 1, 1},
                                   {1, 9, 5},     {9, 1, 5},     {7, 5, 3},      {33, 31, 37},
                                   {8, 600, 300}, {300, 65, 90}, {130, 260, 64}, {1100, 20, 50},
                                   {100, 130, 90}};

// The sum over k of op(a)[i, k] op(b)[k, j].
Values product(Sizes s, const Values& a, bool ta, const Values& b, bool tb) {
  Values out(at(s.m * s.n), 0.0);
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t l = 0; l < s.k; ++l) {
      const double a_il = a[at(ta ? l * s.m + i : i * s.k + l)];
      for (std::int64_t j = 0; j < s.n; ++j) {
        out[at(i * s.n + j)] += a_il * b[at(tb ? j * s.k + l : l * s.n + j)];
      }
    }
  }
  return out;
}

Shape matrix(std::int64_t rows, std::int64_t cols, bool transposed) {
  return transposed ? Shape{cols, rows} : Shape{rows, cols};
}

Values part(const Tensor& t, std::int64_t batch, std::int64_t i) {
  const Values all = t.to_vector();
  const auto size = static_cast<std::ptrdiff_t>(t.numel() / batch);
  return {all.begin() + i * size, all.begin() + (i + 1) * size};
}

}  // namespace

KERNEL_TEST("matrix products in every orientation") {
  for (const DType dtype : floating()) {
    for (const Sizes s : kSizes) {
      for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
          CAPTURE(s.m);
          CAPTURE(s.n);
          CAPTURE(s.k);
          CAPTURE(ta);
          CAPTURE(tb);
          const Tensor a = random(matrix(s.m, s.k, ta), dtype, 1);
          const Tensor b = random(matrix(s.k, s.n, tb), dtype, 2);
          const Values want = product(s, a.to_vector(), ta, b.to_vector(), tb);
          check_close(
              on.run({s.m, s.n}, dtype,
                     [&](const Tensor& out) { on->matmul(on(a), ta, on(b), tb, 0.0, out); }),
              want, 32.0);
        }
      }
    }
  }
}

KERNEL_TEST("a product may be added to a multiple of what is there") {
  for (const DType dtype : floating()) {
    for (const Sizes s : kSizes) {
      for (const double beta : {1.0, -0.5}) {
        const Tensor a = random({s.m, s.k}, dtype, 1);
        const Tensor b = random({s.k, s.n}, dtype, 2);
        const Tensor c = random({s.m, s.n}, dtype, 3);
        Values want = product(s, a.to_vector(), false, b.to_vector(), false);
        for (std::size_t i = 0; i < want.size(); ++i) {
          want[i] += beta * c.at(static_cast<std::int64_t>(i));
        }
        check_close(on.run({s.m, s.n}, dtype,
                           [&](const Tensor& out) {
                             on->copy(on(c), out);
                             on->matmul(on(a), false, on(b), false, beta, out);
                           }),
                    want, 32.0);
      }
    }
  }
}

KERNEL_TEST("products in batches, of two batches or of one and a matrix") {
  for (const DType dtype : floating()) {
    for (const std::int64_t batch : {0, 1, 3}) {
      for (const Sizes s :
           {Sizes{3, 4, 5}, Sizes{5, 4, 0}, Sizes{70, 90, 80}, Sizes{160, 40, 90}}) {
        for (int orientation = 0; orientation < 4; ++orientation) {
          for (const auto& [batch_a, batch_b] :
               {std::pair{true, true}, std::pair{true, false}, std::pair{false, true}}) {
            const bool ta = orientation % 2 == 1;
            const bool tb = orientation / 2 == 1;
            const auto shape = [batch](bool batched, const Shape& one) {
              return batched ? Shape{batch, one[0], one[1]} : one;
            };
            const Tensor a = random(shape(batch_a, matrix(s.m, s.k, ta)), dtype, 1);
            const Tensor b = random(shape(batch_b, matrix(s.k, s.n, tb)), dtype, 2);
            Values want;
            for (std::int64_t i = 0; i < batch; ++i) {
              const Values one = product(s, batch_a ? part(a, batch, i) : a.to_vector(), ta,
                                         batch_b ? part(b, batch, i) : b.to_vector(), tb);
              want.insert(want.end(), one.begin(), one.end());
            }
            check_close(
                on.run({batch, s.m, s.n}, dtype,
                       [&](const Tensor& out) { on->matmul(on(a), ta, on(b), tb, 0.0, out); }),
                want, 32.0);
          }
        }
      }
    }
  }
}

KERNEL_TEST("a NaN reaches the whole of its row and no other") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : {3, 64}) {
      const Tensor a = on(random({n, n}, dtype, 1));
      on->fill(std::nan(""), a.rows(1, 2));
      const Tensor out = Tensor::empty({n, n}, dtype, on.device);
      on->matmul(a, false, on(random({n, n}, dtype, 2)), false, 0.0, out);
      const Values got = out.to_vector();
      for (std::int64_t i = 0; i < n * n; ++i) CHECK(std::isnan(got[at(i)]) == (i / n == 1));
    }
  }
}

TEST_CASE("a part of a matrix can be multiplied in place") {
  for (const Sizes s : {Sizes{3, 4, 5}, Sizes{40, 50, 60}}) {
    // Rows longer than the matrix on all three sides; what lies between them stays.
    const std::int64_t longer = 7;
    const auto run = [&](auto zero) {
      using T = decltype(zero);
      const Tensor a = random({s.m, s.k + longer}, dtype_of<T>, 1);
      const Tensor b = random({s.n, s.k + longer}, dtype_of<T>, 2);
      const Tensor c = Tensor::full({s.m, s.n + longer}, 9.0, dtype_of<T>, Device::cpu);
      cpu::product(s.m, s.n, s.k, cpu::Matrix<T>{a.data<T>(), s.k + longer},
                   cpu::Matrix<T>{b.data<T>(), s.k + longer, true}, T(0), c.write<T>(),
                   s.n + longer);
      Values want(at(c.numel()), 9.0);
      for (std::int64_t i = 0; i < s.m; ++i) {
        for (std::int64_t j = 0; j < s.n; ++j) {
          double sum = 0.0;
          for (std::int64_t l = 0; l < s.k; ++l) {
            sum += a.at(i * (s.k + longer) + l) * b.at(j * (s.k + longer) + l);
          }
          want[at(i * (s.n + longer) + j)] = sum;
        }
      }
      check_close(c, want, 32.0);
    };
    run(float{});
    run(double{});
  }
}

namespace {

// Multiples of 1/8 up to 4: sums of a thousand products of two of them are exact in f32.
Tensor eighths(const Shape& shape, DType dtype, std::uint64_t seed) {
  Values values = random(shape, dtype, seed).to_vector();
  for (double& v : values) v = std::clamp(std::round(8.0 * v) / 8.0, -4.0, 4.0);
  return tensor_of(shape, dtype, values);
}

// A matrix in memory of exactly its own size, so that the sanitizer sees every step beyond it; its
// rows one after the other, or listed in another order among others.
template <class T>
struct Operand {
  Operand(std::int64_t rows, std::int64_t cols, bool transposed, bool listed, std::uint64_t seed) {
    const std::int64_t lines = transposed ? cols : rows;
    const std::int64_t length = transposed ? rows : cols;
    const std::int64_t step = listed ? 2 : 1;
    const Values values = eighths({step * lines, length}, dtype_of<T>, seed).to_vector();
    data.assign(values.begin(), values.end());
    for (std::int64_t r = 0; listed && r < lines; ++r) {
      list.push_back(static_cast<std::int32_t>(2 * lines - 1 - 2 * r));
    }
    matrix = {data.data(), length, transposed, listed ? list.data() : nullptr};
  }

  std::vector<T> data;
  std::vector<std::int32_t> list;
  cpu::Matrix<T> matrix{};
};

template <class T>
void check_every_way(Sizes s, bool ta, bool tb, bool listed, T beta) {
  CAPTURE(s.m);
  CAPTURE(s.n);
  CAPTURE(s.k);
  CAPTURE(ta);
  CAPTURE(tb);
  CAPTURE(listed);
  const Operand<T> a(s.m, s.k, ta, listed, 1);
  const Operand<T> b(s.k, s.n, tb, listed, 2);
  const Tensor before = eighths({s.m, s.n}, dtype_of<T>, 3);
  const auto by = [&](cpu::ProductBy what) {
    const Tensor c = before.clone();
    cpu::product(what, s.m, s.n, s.k, a.matrix, b.matrix, beta, c.write<T>(), s.n);
    return c;
  };
  const Values loops = by(cpu::ProductBy::loops).to_vector();
  check_close(by(cpu::ProductBy::eigen), loops, 0.0);
  check_close(by(cpu::ProductBy::packed), loops, 0.0);
}

}  // namespace

TEST_CASE("whatever computes a product, it is the same product") {
  // Around the sides of packed_product's blocks of registers and of caches.
  const std::vector<Sizes> sizes = {{5, 7, 9},    {6, 16, 8},    {1, 40, 20},   {40, 1, 20},
                                    {13, 33, 1},  {12, 32, 16},  {145, 31, 70}, {19, 515, 33},
                                    {7, 17, 257}, {3, 4, 0},     {25, 8, 40},   {26, 65, 9},
                                    {8, 64, 300}, {13, 48, 512}, {13, 128, 64}, {30, 4, 33}};
  for (const Sizes s : sizes) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        check_every_way<float>(s, ta, tb, false, 0.0F);
        check_every_way<float>(s, ta, tb, true, 1.0F);
        check_every_way<double>(s, ta, tb, false, 0.5);
        check_every_way<double>(s, ta, tb, true, 0.0);
      }
    }
  }
}

TEST_CASE("a packed product has the same bits whatever part of it is asked for") {
  const Sizes s{50, 70, 300};
  for (const bool transposed : {false, true}) {
    Operand<float> a(s.m, s.k, transposed, false, 1);
    Operand<float> b(s.k, s.n, transposed, false, 2);
    for (float& v : a.data) v *= 0.1F;  // sums are rounded
    const Tensor whole = Tensor::empty({s.m, s.n}, DType::f32, Device::cpu);
    cpu::product(cpu::ProductBy::packed, s.m, s.n, s.k, a.matrix, b.matrix, 0.0F,
                 whole.write<float>(), s.n);
    const std::int64_t row = 31;
    const std::int64_t col = 9;
    for (const Sizes part : {Sizes{5, 19, s.k},
                             {6, 16, s.k},
                             {13, 8, s.k},
                             {2, 32, s.k},
                             {9, 3, s.k},
                             {13, 5, s.k},
                             {7, 1, s.k},
                             {1, 40, s.k},
                             {1, 8, s.k}}) {
      cpu::Matrix<float> left = a.matrix;
      cpu::Matrix<float> right = b.matrix;
      left.data += transposed ? row : row * s.k;
      right.data += transposed ? col * s.k : col;
      const Tensor some = Tensor::empty({part.m, part.n}, DType::f32, Device::cpu);
      cpu::product(cpu::ProductBy::packed, part.m, part.n, part.k, left, right, 0.0F,
                   some.write<float>(), part.n);
      for (std::int64_t i = 0; i < part.m; ++i) {
        for (std::int64_t j = 0; j < part.n; ++j) {
          CHECK(some.at(i * part.n + j) == whole.at((row + i) * s.n + col + j));
        }
      }
    }
  }
}
