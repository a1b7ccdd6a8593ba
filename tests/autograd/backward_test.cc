// The reverse pass: autograd/backward.cc.

#include <cmath>
#include <stdexcept>

#include <doctest/doctest.h>

#include "autograd/tape.h"
#include "ops/ops.h"
#include "tests/autograd/row.h"

using namespace moegrad;
using moegrad::test::row;

TEST_CASE("gradients of leaves") {
  Tape t;
  const Var a = t.variable(row({1, 2}));
  const Var b = t.variable(row({3, 4}));
  const Var c = t.constant(row({5, 6}));
  const Var unused = t.variable(row({7}));
  const Var loss = sum(a * b + a * c);
  CHECK(loss.value().item() == 1 * 3 + 2 * 4 + 1 * 5 + 2 * 6);
  const Gradients g = t.backward(loss);
  CHECK(g[a].to_vector() == std::vector<double>{8, 10});
  CHECK(g[b].to_vector() == std::vector<double>{1, 2});
  CHECK(g[unused].to_vector() == std::vector<double>{0});
  CHECK_THROWS_WITH_AS(g[c],
                       "[gradients] node 2 is neither a leaf with a gradient nor kept. Make it "
                       "with tape.variable(), or name it in BackwardOptions::keep.",
                       Error);
}

TEST_CASE("gradients answer for their own tape only") {
  Tape t;
  Tape other;
  const Var a = t.variable(row({1}));
  const Var b = other.variable(row({1}));
  const Gradients g = t.backward(sum(square(a)));
  CHECK(g[a].at(0) == 2.0);
  CHECK_THROWS_AS(g[b], Error);
  t.clear();
  CHECK(g[a].at(0) == 2.0);  // gradients outlive the record
  const Var again = t.variable(row({1}));
  CHECK(again.index() == a.index());
  CHECK_THROWS_AS(g[again], Error);
}

namespace {

// A floating input, an integer output.
struct Places {
  static constexpr std::string_view name = "places", summary = "argmax";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) {
    in.save(in[0]);
    return Tensor::zeros({}, DType::i32, Device::cpu);
  }
  static void backward(Backward&, const NoAttributes&) { throw std::logic_error("never called"); }
  static std::vector<OperationCase> cases() { return {}; }
};

// Operations that read what they did not ask for.
template <int which>
struct Undeclared {
  static constexpr std::string_view name = "undeclared", summary = "x";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = which == 0 ? Needs::output : Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) { return in[0].clone(); }
  static void backward(Backward& b, const NoAttributes&) {
    if (which == 0) b.add(0, b.input(0));
    if (which == 1) b.add(0, b.output());
    if (which == 2) b.add(0, b.saved(0));
    if (which == 3) b.add(1, b.dy());
    if (which == 4) b.add(0, Tensor::zeros({5}, DType::f64, Device::cpu));
    if (which == 5) b.add(0, b.dy().to(DType::f32));
  }
  static std::vector<OperationCase> cases() { return {}; }
};

template <int which>
void backward_of_undeclared() {
  Tape t;
  const Var x = t.variable(row({1}));
  t.backward(apply<Undeclared<which>>({x}));
}

}  // namespace

TEST_CASE("an integer output of an operation ends the gradient") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var i = apply<Places>({x});
  CHECK(!i.needs_gradient());
  CHECK(t.bytes_saved() == 0);
}

TEST_CASE("backward reads only what the operation declared") {
  CHECK_THROWS_WITH_AS(backward_of_undeclared<0>(),
                       "backward of undeclared reads its inputs without declaring the need",
                       std::logic_error);
  CHECK_THROWS_WITH_AS(backward_of_undeclared<1>(),
                       "backward of undeclared reads its output without declaring the need",
                       std::logic_error);
  CHECK_THROWS_WITH_AS(backward_of_undeclared<2>(),
                       "backward of undeclared reads its saved tensor without declaring the need",
                       std::logic_error);
  CHECK_THROWS_WITH_AS(backward_of_undeclared<3>(),
                       "backward of undeclared reads its further inputs without declaring the need",
                       std::logic_error);
  CHECK_THROWS_WITH_AS(
      backward_of_undeclared<4>(),
      "backward of undeclared gives input 0 a gradient f64 [5], the input is f64 [1]",
      std::logic_error);
  CHECK_THROWS_WITH_AS(
      backward_of_undeclared<5>(),
      "backward of undeclared gives input 0 a gradient f32 [1], the input is f64 [1]",
      std::logic_error);
}

TEST_CASE("a backward pass releases what it went through") {
  Tape t;
  const Var x = t.variable(row({0.5, 1}));
  const Var h = exp(x);
  const Var aside = square(x);
  const Var loss = sum(square(h));
  const double value = loss.value().item();

  SUBCASE("and says so when it is read again") {
    t.backward(loss);
    CHECK(loss.value().item() == value);
    CHECK(x.value().at(0) == 0.5);
    CHECK(aside.value().at(0) == 0.25);  // the loss does not depend on it
    const char* const released =
        "[value] node 1 ('exp') was released by an earlier backward pass. Read it before, or pass "
        "retain.";
    CHECK_THROWS_WITH_AS(h.value(), released, Error);
    CHECK_THROWS_WITH_AS(
        square(h),
        "[square] node 1 ('exp') was released by an earlier backward pass. Read it before, or pass "
        "retain.",
        Error);
    CHECK_THROWS_WITH_AS(
        t.backward(loss),
        "[backward] node 4 ('sum') was released by an earlier backward pass. Read it before, or "
        "pass retain.",
        Error);
  }
  SUBCASE("an operation whose inputs are gone says so too") {
    const Var other = sum(h * aside);
    t.backward(loss);
    CHECK_THROWS_WITH_AS(
        t.backward(other),
        "[backward] node 1 ('exp') was released by an earlier backward pass. Read it before, or "
        "pass retain.",
        Error);
  }
  SUBCASE("what another loss needs alone stays") {
    const Var other = sum(aside);
    t.backward(loss);
    CHECK(t.backward(other)[x].to_vector() == std::vector<double>{1, 2});
  }
  SUBCASE("unless told to retain it") {
    const Gradients first = t.backward(loss, {.retain = true});
    CHECK(h.value().at(0) == std::exp(0.5));
    const Gradients second = t.backward(loss);
    CHECK(first[x].same_bits(second[x]));
  }
  SUBCASE("the memory goes back to the pool") {
    t.clear();
    const Var big = t.variable(Tensor::full({1000}, 1.0, DType::f64, Device::cpu));
    const std::size_t before = pool::stats(Device::cpu).bytes_in_use;
    const Var end = sum(exp(exp(exp(big))));
    CHECK(pool::stats(Device::cpu).bytes_in_use >= before + 24000);
    t.backward(end);
    CHECK(pool::stats(Device::cpu).bytes_in_use < before + 1000);
  }
}

TEST_CASE("gradients of inner Vars are kept on request") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var h = square(x);
  const Var c = t.constant(row({1, 2}));
  const Var loss = sum(h * c);
  const Gradients g = t.backward(loss, {.keep = {h, loss}});
  CHECK(g[h].to_vector() == std::vector<double>{1, 2});
  CHECK(g[loss].item() == 1.0);
  CHECK(g[x].to_vector() == std::vector<double>{2, 8});
  CHECK_THROWS_WITH_AS(
      t.backward(loss, {.keep = {c}}),
      "[backward] node 2 ('constant') is to be kept and has no gradient. Use a tape.variable().",
      Error);

  SUBCASE("also of one behind the loss: zeros") {
    Tape u;
    const Var y = u.variable(row({1}));
    const Var early = sum(y);
    const Var later = square(y);
    CHECK(u.backward(early, {.keep = {later}})[later].item() == 0.0);
  }
}

TEST_CASE("adjoints are moved on the first contribution and added after") {
  Tape t;
  const Var x = t.variable(row({1, 2}));

  SUBCASE("three uses") {
    const Var loss = sum(reshape(x, {2, 1})) + sum(x * 2.0) + sum(square(x));
    CHECK(t.backward(loss)[x].to_vector() == std::vector<double>{1 + 2 + 2, 1 + 2 + 4});
  }
  SUBCASE("one value used twice by one operation") {
    CHECK(t.backward(sum(x * x))[x].to_vector() == std::vector<double>{2, 4});
    CHECK(t.backward(sum(concat({x, x, x}, 0)))[x].to_vector() == std::vector<double>{3, 3});
  }
  SUBCASE("gradients share no storage with each other or with the cotangent") {
    const Var y = t.variable(row({3, 4}));
    const Var z = straight_through(y, x);
    const Tensor cotangent = row({5, 6});
    const Gradients g = t.backward(z, {.cotangent = cotangent, .keep = {z}});
    CHECK(g[x].same_bits(cotangent));
    CHECK(g[z].same_bits(cotangent));
    CHECK(!g[x].shares_storage(cotangent));
    CHECK(!g[x].shares_storage(g[z]));
    CHECK(g[y].to_vector() == std::vector<double>{0, 0});
  }
  SUBCASE("a cotangent is not written when more is added to it") {
    const Tensor cotangent = row({5, 6});
    const Var y = reshape(x, {2});
    const Var both = y + reshape(y, {2});
    const Gradients g = t.backward(both, {.cotangent = cotangent});
    CHECK(g[x].to_vector() == std::vector<double>{10, 12});
    CHECK(cotangent.to_vector() == std::vector<double>{5, 6});
  }
  SUBCASE("a gradient takes the place of an adjoint that nobody else holds") {
    const Tensor cotangent = row({5, 6});
    const Var z = x * t.variable(row({3, 4}));
    const Gradients kept = t.backward(z, {.cotangent = cotangent, .retain = true, .keep = {z}});
    CHECK(kept[x].to_vector() == std::vector<double>{15, 24});
    CHECK(kept[z].same_bits(cotangent));
    CHECK(cotangent.to_vector() == std::vector<double>{5, 6});
    CHECK(t.backward(-z, {.cotangent = cotangent})[x].to_vector() == std::vector<double>{-15, -24});
  }
}

TEST_CASE("what backward starts from") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  CHECK_THROWS_WITH_AS(
      t.backward(exp(x)),
      "[backward] the loss is f64 [2]. Reduce it to one floating number, or give a cotangent.",
      Error);
  CHECK_THROWS_WITH_AS(
      t.backward(exp(x), {.cotangent = row({1})}),
      "[backward] the cotangent is f64 [1] and the output f64 [2]. They must agree.", Error);
  CHECK_THROWS_WITH_AS(
      t.backward(t.constant(Tensor::of<std::int32_t>({}, {1}))),
      "[backward] the loss is i32 []. Reduce it to one floating number, or give a cotangent.",
      Error);
  CHECK(t.backward(x * 3.0, {.cotangent = row({1, 10})})[x].to_vector() ==
        std::vector<double>{3, 30});
  // A loss that depends on no leaf: zeros.
  CHECK(t.backward(sum(t.constant(row({1}))))[x].to_vector() == std::vector<double>{0, 0});
}
