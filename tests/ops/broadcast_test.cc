#include "ops/broadcast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

using Places = std::array<std::int64_t, Shape::kMaxRank>;

// The shape padded in front with ones, and the place of an element in it.
std::int64_t padded(const Shape& s, int axis) {
  const int own = axis - (Shape::kMaxRank - s.rank());
  return own < 0 ? 1 : s[own];
}
std::int64_t element(const Shape& s, const Places& at) {
  std::int64_t e = 0;
  for (int axis = 0; axis < Shape::kMaxRank; ++axis) {
    const std::int64_t size = padded(s, axis);
    e = e * size + (size == 1 ? 0 : at[static_cast<std::size_t>(axis)]);
  }
  return e;
}

// Every shape of up to `rank` axes of these sizes.
std::vector<Shape> shapes(int rank, std::initializer_list<std::int64_t> sizes) {
  std::vector<Shape> all = {{}};
  std::size_t first = 0;
  for (int r = 0; r < rank; ++r) {
    const std::size_t last = all.size();
    for (; first < last; ++first) {
      for (const std::int64_t size : sizes) {
        Shape longer = all[first];
        longer.push_back(size);
        all.push_back(longer);
      }
    }
  }
  return all;
}

// NumPy's rule, written out; nothing where the shapes do not meet.
std::optional<Shape> meeting(const Shape& a, const Shape& b) {
  Shape result;
  for (int axis = Shape::kMaxRank - std::max(a.rank(), b.rank()); axis < Shape::kMaxRank; ++axis) {
    const std::int64_t x = padded(a, axis);
    const std::int64_t y = padded(b, axis);
    if (x != y && x != 1 && y != 1) return std::nullopt;
    result.push_back(x == 1 ? y : x);
  }
  return result;
}

// a / b and its gradients against a plain loop over the result.
void compare_pair(const Shape& sa, const Shape& sb) {
  CAPTURE(sa.str());
  CAPTURE(sb.str());
  Tape t;
  const Var a = t.variable(Rng{1, 0, 0}.uniform(sa, DType::f64, -2.0, 2.0));
  const Var b = t.variable(Rng{2, 0, 0}.uniform(sb, DType::f64, 0.5, 2.0));
  const std::optional<Shape> shape = meeting(sa, sb);
  if (!shape) {
    CHECK_THROWS_AS(a / b, Error);
    return;
  }
  const Var y = a / b;
  REQUIRE(y.shape() == *shape);
  const Tensor cotangent = Rng{3, 0, 0}.uniform(*shape, DType::f64, -1.0, 2.0);
  const Gradients g = t.backward(y, {.cotangent = cotangent, .retain = true});
  std::vector<double> da(static_cast<std::size_t>(sa.numel()));
  std::vector<double> db(static_cast<std::size_t>(sb.numel()));
  Places at{};
  bool same = true;
  for (std::int64_t e = 0; e < shape->numel(); ++e) {
    std::int64_t rest = e;
    for (int axis = Shape::kMaxRank; axis-- > 0;) {
      at[static_cast<std::size_t>(axis)] = rest % padded(*shape, axis);
      rest /= padded(*shape, axis);
    }
    const std::int64_t i = element(sa, at);
    const std::int64_t j = element(sb, at);
    const double x = a.value().at(i);
    const double z = b.value().at(j);
    same = same && y.value().at(e) == x / z;
    da[static_cast<std::size_t>(i)] += cotangent.at(e) / z;
    db[static_cast<std::size_t>(j)] += -cotangent.at(e) * x / (z * z);
  }
  CHECK(same);
  for (std::size_t i = 0; i < da.size(); ++i) {
    CHECK(g[a].at(static_cast<std::int64_t>(i)) == doctest::Approx(da[i]).epsilon(1e-12));
  }
  for (std::size_t i = 0; i < db.size(); ++i) {
    CHECK(g[b].at(static_cast<std::int64_t>(i)) == doctest::Approx(db[i]).epsilon(1e-12));
  }
}

}  // namespace

TEST_CASE("any two shapes meet as in NumPy, forward and back") {
  const std::vector<Shape> some = shapes(3, {1, 2, 3});
  for (const Shape& a : some) {
    for (const Shape& b : some) compare_pair(a, b);
  }
  const std::vector<Shape> with_empty = shapes(2, {0, 1, 2});
  for (const Shape& a : with_empty) {
    for (const Shape& b : with_empty) compare_pair(a, b);
  }
  compare_pair({2, 1, 3, 1, 2}, {1, 4, 1, 3, 1});
  compare_pair({1, 4, 1, 3, 1}, {2, 1, 3, 1, 2});
  compare_pair({2, 4, 3, 3, 2}, {3, 1, 2});
  compare_pair({4, 1, 1}, {2, 1, 3, 5});
}

TEST_CASE("axes that go on alike are seen as one: no copy for the usual operands") {
  const auto plan = [](const Shape& a, const Shape& b) { return broadcast("add", a, b); };
  const auto copies = [&](const Shape& a, const Shape& b) {
    const BroadcastPlan p = plan(a, b);
    return (p.spread_a ? 1 : 0) + (p.spread_b ? 1 : 0);
  };
  for (const Shape& operand : {Shape{4, 8, 16}, Shape{}, Shape{16}, Shape{8, 16}, Shape{1, 8, 16},
                               Shape{4, 1, 1}, Shape{4, 8, 1}}) {
    CAPTURE(operand.str());
    CHECK(copies({4, 8, 16}, operand) == 0);
    CHECK(copies(operand, {4, 8, 16}) == 0);
  }
  CHECK(copies({4, 1}, {1, 8}) == 0);
  CHECK(copies({4, 8, 16}, {4, 1, 16}) == 1);
  CHECK(copies({4, 1, 16}, {8, 1}) == 2);
  CHECK(plan({4, 8, 16}, {8, 16}).rows == 4);
  CHECK(plan({4, 8, 16}, {8, 16}).cols == 128);
}

TEST_CASE("the gradient of a long broadcast of f32 keeps its digits") {
  constexpr std::int64_t kCount = 1000000;
  Tape t;
  const Var x = t.constant(Tensor::full({2, kCount, 2}, 0.1, DType::f32, Device::cpu));
  const double want = 0.1F * kCount;
  for (const Shape& shape : {Shape{}, Shape{1, 2}, Shape{2, 1, 1}, Shape{2, 1, 2}}) {
    CAPTURE(shape.str());
    const Var w = t.variable(Tensor::full(shape, 1.0, DType::f32, Device::cpu));
    const Tensor dw = t.backward(sum(x * w), {.retain = true})[w];
    const double each = want * 4.0 / static_cast<double>(shape.numel());
    for (std::int64_t i = 0; i < dw.numel(); ++i) CHECK(std::abs(dw.at(i) / each - 1.0) < 1e-6);
  }
}
