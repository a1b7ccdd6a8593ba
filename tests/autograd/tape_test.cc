#include "autograd/tape.h"

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tensor/storage.h"
#include "tests/autograd/row.h"

using namespace moegrad;
using moegrad::test::row;

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
  Var x = t.variable(Tensor::full({2, 3}, 1.0, DType::f64, Device::cpu));
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

TEST_CASE("the nodes of a tape: their Vars, kinds, claims and parameters") {
  Tape t;
  const Parameter p{"w", row({1, 2})};
  const Var w = t.parameter(p);
  const Var y = relu(w);
  const Var z = straight_through(t.constant(row({3, 4})), y);
  CHECK(t.var(1).value().to_vector() == y.value().to_vector());
  CHECK(t.backward(sum(t.var(3)), {.retain = true})[t.var(0)].to_vector() ==
        std::vector<double>{1, 1});
  CHECK(t.node(0).label == "parameter");
  CHECK(t.node(0).parameter == &p);
  CHECK(t.node(0).operation == nullptr);
  CHECK(t.node(1).label == "relu");
  CHECK(t.node(1).parameter == nullptr);
  CHECK(t.node(1).operation->claim == Claim::exact_on_cell);
  CHECK(t.node(2).label == "constant");
  CHECK(t.node(3).operation->claim == Claim::surrogate);
  CHECK(z.index() == 3);
  CHECK_THROWS_WITH_AS(
      t.var(9), "[tape] there is no node 9: the tape has 5. Nodes are counted from 0.", Error);
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
  const Var x = t.variable(Tensor::zeros({2, 3}, DType::f64, Device::cpu));
  const std::size_t size = t.size();
  CHECK_THROWS_AS(matmul(x, x), Error);
  CHECK(t.size() == size);
  CHECK(t.backward(sum(matmul(x, x, false, true)))[x].numel() == 6);
}

TEST_CASE("a steady step takes no memory from the system") {
  Tape t;
  Parameter w{"w", Tensor::full({8, 8}, 0.1, DType::f32, Device::cpu)};
  const Tensor batch = Tensor::full({4, 8}, 0.5, DType::f32, Device::cpu);
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
