#include "autograd/tape.h"

#include <cmath>
#include <stdexcept>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tensor/storage.h"

using namespace moegrad;

namespace {

Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

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

TEST_CASE("a parameter is one leaf, however often it is asked for") {
  Tape t;
  Parameter p{"w", row({2, 3})};
  const Parameter never{"never", row({1})};
  const Var first = t.parameter(p);
  const Var second = t.parameter(p);
  CHECK(first.index() == second.index());
  CHECK(t.size() == 1);
  const Gradients g = t.backward(sum(first * second));
  CHECK(g[p].to_vector() == std::vector<double>{4, 6});
  CHECK(g[first].same_bits(g[p]));
  CHECK(g[never].to_vector() == std::vector<double>{0});

  t.clear();
  CHECK(t.parameter(p).index() == 0);
}

TEST_CASE("a parameter that could not be made is not remembered") {
  Tape t(Tape::Options{.check_finite = true});
  t.constant(row({1}));
  Parameter p{"w", row({INFINITY})};
  CHECK_THROWS_AS(t.parameter(p), Error);
  p.value = row({2});
  CHECK(t.parameter(p).value().item() == 2.0);
}

TEST_CASE("a shape outlives the growth of its tape") {
  Tape t;
  Var x = t.variable(Tensor::full({2, 3}, 1.0, DType::f64));
  const Shape& shape = x.shape();
  for (int i = 0; i < 1000; ++i) x = x + 1.0;
  CHECK(shape == Shape({2, 3}));
  CHECK(reshape(x * 2.0 + 1.0, x.shape()).shape() == shape);
}

TEST_CASE("integer tensors carry no gradient and are skipped") {
  Tape t;
  Parameter counts{"counts", Tensor::of<std::int32_t>({2}, {1, 2})};
  const Var i = t.variable(Tensor::of<std::int32_t>({3}, {2, 0, 2}));
  CHECK(!i.needs_gradient());
  CHECK(!t.parameter(counts).needs_gradient());
  CHECK(!reshape(i, {3, 1}).needs_gradient());
  const Var x = t.variable(row({1, 2, 3}));
  const Gradients g = t.backward(sum(square(apply<GatherRows>({x, i}))));
  CHECK(g[x].to_vector() == std::vector<double>{2, 0, 12});
  CHECK(g[counts].dtype() == DType::i32);
  CHECK(g[counts].to_vector() == std::vector<double>{0, 0});
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
    return Tensor::zeros({}, DType::i32);
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
    if (which == 4) b.add(0, Tensor::zeros({5}, DType::f64));
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

TEST_CASE("what no gradient can reach records nothing and saves nothing") {
  Tape t;
  const Var c = t.constant(row({1, 2}));
  const Var y = softmax(exp(c) * c);
  CHECK(!y.needs_gradient());
  CHECK(t.bytes_saved() == 0);
  CHECK(t.node(2).inputs.empty());
  CHECK(y.value().numel() == 2);

  SUBCASE("nor does a tape without gradients") {
    Tape off(Tape::Options{.gradients = false});
    const Var x = off.variable(row({1, 2}));
    CHECK(!max(x, 0).needs_gradient());
    CHECK(off.bytes_saved() == 0);
    CHECK_THROWS_WITH_AS(off.backward(sum(x)),
                         "[backward] this tape records no gradients. Set Tape::Options::gradients.",
                         Error);
  }
  SUBCASE("needed values and saved tensors are counted once") {
    const Var x = t.variable(row({1, 2}));
    const Var e = exp(x);  // its output
    CHECK(t.bytes_saved() == 16);
    e* e;  // its inputs: the same
    CHECK(t.bytes_saved() == 16);
    max(e, 0);  // the place of the largest
    CHECK(t.bytes_saved() == 16 + 4);
  }
}

TEST_CASE("mark and rewind") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var y = square(x);
  const Tape::Mark mark = t.mark();
  const Var z = max(exp(y), 0);
  CHECK(t.size() == 4);
  t.rewind(mark);
  CHECK(t.size() == 2);
  CHECK(y.value().to_vector() == std::vector<double>{1, 4});
  CHECK_THROWS_WITH_AS(z.value(),
                       "[tape] node 3 is not on this tape (any more). Values end with clear() and "
                       "rewind().",
                       Error);

  SUBCASE("recording goes on from there") {
    const Var again = sum(y * y);
    CHECK(again.index() == 3);
    CHECK_THROWS_AS(z.value(), Error);  // the place is taken, the Var is stale all the same
    CHECK(t.backward(again)[x].to_vector() == std::vector<double>{4, 32});
  }
  SUBCASE("parameters made since are forgotten, earlier ones are not") {
    Parameter p{"p", row({1})};
    Parameter q{"q", row({2})};
    t.parameter(p);
    const Tape::Mark later = t.mark();
    const Var second = t.parameter(q);
    t.rewind(later);
    CHECK_THROWS_AS(second.value(), Error);
    CHECK(t.parameter(p).index() == 2);
    CHECK(t.parameter(q).value().item() == 2.0);
  }
  SUBCASE("a later mark than the end is an error") {
    t.rewind({});
    CHECK_THROWS_WITH_AS(
        t.rewind(mark),
        "[rewind] the mark is at node 2 and the tape ends at 0. Use marks in order.", Error);
  }
}

TEST_CASE("stale, foreign and undefined Vars") {
  Tape t;
  Tape other;
  const Var x = t.variable(row({1}));
  const Var foreign = other.variable(row({1}));
  const char* const not_here =
      "[tape] node 0 is not on this tape (any more). Values end with clear() and rewind().";
  CHECK_THROWS_WITH_AS(x + foreign, not_here, Error);
  t.clear();
  CHECK_THROWS_WITH_AS(x.value(), not_here, Error);
  CHECK_THROWS_WITH_AS(x.shape(), not_here, Error);
  CHECK_THROWS_WITH_AS(exp(x), not_here, Error);
  CHECK_THROWS_WITH_AS(t.backward(x), not_here, Error);

  const char* const undefined =
      "[tape] a Var without a value is used. Make one with tape.constant() or variable().";
  CHECK_THROWS_WITH_AS(Var().value(), undefined, Error);
  CHECK_THROWS_WITH_AS(Var().shape(), undefined, Error);
  CHECK_THROWS_WITH_AS(softmax(Var()), undefined, Error);
  CHECK_THROWS_WITH_AS(stop_gradient(Var()), undefined, Error);
  CHECK_THROWS_WITH_AS(
      exp(Var()), "[exp] the first input is no value of a tape. Make one with tape.constant().",
      Error);
  CHECK_THROWS_WITH_AS(t.variable(row({1})) + Var(),
                       "[add] an input is no value of a tape. Pass every input.", Error);
  CHECK_THROWS_WITH_AS(t.constant(Tensor()),
                       "[constant] no tensor given. Pass a tensor with elements or of size 0.",
                       Error);
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
    const Var big = t.variable(Tensor::full({1000}, 1.0, DType::f64));
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

TEST_CASE("check_finite names the operation that makes the first infinity") {
  Tape t(Tape::Options{.check_finite = true});
  const Var x = t.variable(row({1, 0}));
  CHECK_THROWS_WITH_AS(
      log(x), "[log] node 1 holds -inf at element 1 of shape [2]. Look at its inputs.", Error);
  CHECK(t.size() == 1);
  CHECK_THROWS_WITH_AS(t.constant(row({1, 2, NAN})),
                       "[constant] node 1 holds nan at element 2 of shape [3]. Look at its inputs.",
                       Error);
  CHECK(t.backward(sum(exp(x)))[x].at(1) == 1.0);  // the tape is usable after the error
}

TEST_CASE("an operation that throws leaves the tape as it was") {
  Tape t;
  const Var x = t.variable(Tensor::zeros({2, 3}, DType::f64));
  const std::size_t size = t.size();
  CHECK_THROWS_AS(matmul(x, x), Error);
  CHECK(t.size() == size);
  CHECK(t.backward(sum(matmul(x, x, false, true)))[x].numel() == 6);
}

TEST_CASE("the table and the graph of a tape") {
  Tape t;
  const Var x = t.variable(Tensor::of<float>({2}, {1.0F, 0.0F}));
  const Var c = t.constant(Tensor::of<std::int32_t>({2}, {1, 0}));
  const Var y = apply<GatherRows>({x, c});
  const Var z = max(log(y), 0);
  CHECK(t.table() ==
        "node  operation    inputs  shape    saved bytes  finite\n"
        "0     variable             f32 [2]  0            yes\n"
        "1     constant             i32 [2]  0            yes\n"
        "2     gather_rows  0 1     f32 [2]  8            yes\n"
        "3     log          2       f32 [2]  0            NO\n"
        "4     max          3       f32 []   4            yes\n");
  CHECK(t.dot() ==
        "digraph tape {\n"
        "  node [shape=box];\n"
        "  n0 [label=\"0: variable\\nf32 [2]\"];\n"
        "  n1 [label=\"1: constant\\ni32 [2]\", style=dashed];\n"
        "  n2 [label=\"2: gather_rows\\nf32 [2]\"];\n"
        "  n0 -> n2;\n"
        "  n1 -> n2;\n"
        "  n3 [label=\"3: log\\nf32 [2]\"];\n"
        "  n2 -> n3;\n"
        "  n4 [label=\"4: max\\nf32 []\"];\n"
        "  n3 -> n4;\n"
        "}\n");
  t.backward(z);
  CHECK(t.table().find("3     log          2       f32 [2]  0            released\n") !=
        std::string::npos);
}

TEST_CASE("a steady step takes no memory from the system") {
  Tape t;
  Parameter w{"w", Tensor::full({8, 8}, 0.1, DType::f32)};
  const Tensor batch = Tensor::full({4, 8}, 0.5, DType::f32);
  const auto step = [&] {
    const Var h = gelu(matmul(t.constant(batch), t.parameter(w)));
    const Gradients g = t.backward(mean(square(softmax(h))));
    t.clear();
    return g[w];
  };
  const Tensor first = step();
  step();
  const std::uint64_t before = pool::stats(Device::cpu).system_allocations;
  for (int i = 0; i < 5; ++i) CHECK(step().same_bits(first));
  CHECK(pool::stats(Device::cpu).system_allocations == before);
}
