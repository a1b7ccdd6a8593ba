#include "ops/matmul.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "tensor/kernels.h"

using namespace moegrad;

namespace {

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{3, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

// The plain triple loop; batches of one matrix are shared.
std::vector<double> plain(const Tensor& a, bool ta, const Tensor& b, bool tb, std::int64_t batch,
                          std::int64_t m, std::int64_t k, std::int64_t n) {
  std::vector<double> out;
  for (std::int64_t s = 0; s < batch; ++s) {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (std::int64_t l = 0; l < k; ++l) {
          const double x = a.at((a.rank() == 3 ? s * m * k : 0) + (ta ? l * m + i : i * k + l));
          const double y = b.at((b.rank() == 3 ? s * k * n : 0) + (tb ? j * k + l : l * n + j));
          sum += x * y;
        }
        out.push_back(sum);
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("matmul is the plain triple loop, transposed and batched in every way") {
  constexpr std::int64_t kBatch = 3, kM = 4, kK = 5, kN = 2;
  for (int mask = 0; mask < 16; ++mask) {
    const bool ta = (mask & 1) != 0, tb = (mask & 2) != 0;
    const bool batch_a = (mask & 4) != 0, batch_b = (mask & 8) != 0;
    Shape a = ta ? Shape{kK, kM} : Shape{kM, kK};
    Shape b = tb ? Shape{kN, kK} : Shape{kK, kN};
    if (batch_a) a = {kBatch, a[0], a[1]};
    if (batch_b) b = {kBatch, b[0], b[1]};
    INFO(a.str() << " " << b.str());
    Tape t;
    const Tensor x = random(a, 1);
    const Tensor y = random(b, 2);
    const Var product = matmul(t.constant(x), t.constant(y), ta, tb);
    const bool batched = batch_a || batch_b;
    CHECK(product.shape() == (batched ? Shape{kBatch, kM, kN} : Shape{kM, kN}));
    const std::vector<double> expected = plain(x, ta, y, tb, batched ? kBatch : 1, kM, kK, kN);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(product.value().at(static_cast<std::int64_t>(i)) ==
            doctest::Approx(expected[i]).epsilon(1e-13));
    }
  }
}

TEST_CASE("the gradient of a shared operand is the sum over the batch") {
  for (const bool transpose : {false, true}) {
    Tape t;
    const Var a = t.variable(random(transpose ? Shape{2, 4, 3} : Shape{2, 3, 4}, 1));
    const Var w = t.variable(random({4, 5}, 2));
    const Tensor cotangent = random({2, 3, 5}, 3);
    const Gradients g = t.backward(matmul(a, w, transpose), {.cotangent = cotangent});
    Tensor sum = Tensor::zeros({4, 5}, DType::f64, Device::cpu);
    for (std::int64_t s = 0; s < 2; ++s) {
      Tape u;
      const Var as =
          u.constant(a.value().rows(s, s + 1).reshape(transpose ? Shape{4, 3} : Shape{3, 4}));
      const Var ws = u.variable(w.value());
      const Gradients gs = u.backward(matmul(as, ws, transpose),
                                      {.cotangent = cotangent.rows(s, s + 1).reshape({3, 5})});
      kernels(Device::cpu).accumulate(1.0, gs[ws], sum);
    }
    for (std::int64_t i = 0; i < 20; ++i) {
      CHECK(g[w].at(i) == doctest::Approx(sum.at(i)).epsilon(1e-13));
    }
  }
}

TEST_CASE("matmul with an empty inner size is zero, and its gradients are empty") {
  Tape t;
  const Var a = t.variable(Tensor::zeros({2, 0}, DType::f64, Device::cpu));
  const Var b = t.variable(Tensor::zeros({0, 3}, DType::f64, Device::cpu));
  const Var y = matmul(a, b);
  CHECK(y.value().to_vector() == std::vector<double>(6, 0.0));
  CHECK(t.backward(sum(y))[a].shape() == Shape{2, 0});
}

TEST_CASE("only wanted gradients are computed") {
  Tape t;
  const Var a = t.constant(random({2, 3}, 1));
  const Var b = t.variable(random({3, 2}, 2));
  const Gradients g = t.backward(sum(matmul(a, b)));
  CHECK(g[b].numel() == 6);
  CHECK_THROWS_AS(g[a], Error);
}

TEST_CASE("errors of matmul") {
  Tape t;
  const auto of = [&](const Shape& shape, DType dtype = DType::f64) {
    return t.constant(Tensor::zeros(shape, dtype, Device::cpu));
  };
  CHECK_THROWS_WITH_AS(matmul(of({2, 3}), of({4, 2})),
                       "[matmul] [2, 3] times [4, 2]: the inner sizes 3 and 4 differ. Check the "
                       "transpositions.",
                       Error);
  CHECK_THROWS_WITH_AS(matmul(of({2, 3}), of({4, 5}), true, true),
                       "[matmul] [2, 3]^T times [4, 5]^T: the inner sizes 2 and 5 differ. Check "
                       "the transpositions.",
                       Error);
  CHECK_THROWS_WITH_AS(
      matmul(of({3}), of({3, 2})),
      "[matmul] operands have shapes [3] and [3, 2]. Give matrices [m, k] or batches [B, m, k].",
      Error);
  CHECK_THROWS_WITH_AS(
      matmul(of({2, 2, 3}), of({3, 3, 2})),
      "[matmul] batches of 2 and 3 matrices. Give equal batches, or one operand without.", Error);
  CHECK_THROWS_WITH_AS(matmul(of({2, 3}), of({3, 2}, DType::f32)),
                       "[matmul] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(matmul(of({2, 3}, DType::i32), of({3, 2}, DType::i32)),
                       "[matmul] needs f32 or f64, got i32. Convert the tensor first.", Error);
}

// The gradients that a product adds in place are those of the same product on inputs of its own,
// added up; so they are in a second pass, which leaves the first one's alone.
TEST_CASE("two products of the same operands share their gradients' places") {
  for (int mask = 0; mask < 16; ++mask) {
    const bool ta = (mask & 1) != 0, tb = (mask & 2) != 0;
    const bool batch_a = (mask & 4) != 0, batch_b = (mask & 8) != 0;
    Shape a = ta ? Shape{5, 4} : Shape{4, 5};
    Shape b = tb ? Shape{2, 5} : Shape{5, 2};
    if (batch_a) a = {3, a[0], a[1]};
    if (batch_b) b = {3, b[0], b[1]};
    INFO(a.str() << " " << b.str());
    const Tensor values[] = {random(a, 1), random(b, 2)};
    const auto loss = [&](Var x, Var y, std::uint64_t stream) {
      const Var product = matmul(x, y, ta, tb);
      return sum(product * x.tape().constant(random(product.shape(), stream)));
    };
    Tape shared;
    const Var x = shared.variable(values[0]);
    const Var y = shared.variable(values[1]);
    const Var both = loss(x, y, 3) + loss(x, y, 4);
    Tape apart;
    Var own[4];
    for (int i = 0; i < 4; ++i) own[i] = apart.variable(values[i % 2]);
    const Gradients want = apart.backward(loss(own[0], own[1], 3) + loss(own[2], own[3], 4));

    const Gradients first = shared.backward(both, {.retain = true});
    const Tensor kept[] = {first[x].clone(), first[y].clone()};
    const Gradients second = shared.backward(both);
    int input = 0;
    for (const Var& v : {x, y}) {
      CHECK(first[v].same_bits(kept[input]));
      CHECK(second[v].same_bits(kept[input]));
      for (std::int64_t i = 0; i < first[v].numel(); ++i) {
        CHECK(first[v].at(i) ==
              doctest::Approx(want[own[input]].at(i) + want[own[input + 2]].at(i)).epsilon(1e-13));
      }
      ++input;
    }
  }
}
