#include "autograd/transfer.h"

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "autograd/gradcheck.h"
#include "ops/ops.h"
#include "tensor/rng.h"
#include "tests/autograd/row.h"

using namespace moegrad;
using moegrad::test::row;

TEST_CASE("a value goes to another device and its gradient comes back") {
  Tape t;
  const Var x = t.variable(row({1, 2, 3}));
  const Var there = to(x, Device::guarded);
  CHECK(there.value().device() == Device::guarded);
  CHECK(to(x, Device::cpu).index() == x.index());  // it is there already
  const Var y = to(sum(square(there)), Device::cpu);
  CHECK(y.value().item() == 14.0);
  const Gradients g = t.backward(y);
  CHECK(g[x].device() == Device::cpu);
  CHECK(g[x].to_vector() == std::vector<double>{2, 4, 6});
}

TEST_CASE("integers go along") {
  Tape t;
  const Var i = to(t.constant(Tensor::of<std::int32_t>({2}, {1, 0})), Device::guarded);
  CHECK(i.value().device() == Device::guarded);
  CHECK(!i.needs_gradient());
  CHECK(i.value().to_vector() == std::vector<double>{1, 0});
}

TEST_CASE("gradcheck judges what a device computes, and names the node that is wrong there") {
  const auto program = [](Tape&, std::span<const Var> in) {
    CHECK(in[0].value().device() == Device::guarded);
    const Tensor largest = top_k_indices(in[0], 2, "selected");
    return tanh(take_columns(in[0], largest)) + stop_gradient(exp(take_columns(in[0], largest)));
  };
  const Tensor x = row({0.3, -0.7, 1.1, 0.2}).reshape({1, 4});
  GradcheckOptions options{.device = Device::guarded};
  const GradcheckReport right = gradcheck(program, {x}, options);
  CHECK_MESSAGE(right.verdict == Verdict::pass, right.text());

  bool applied = false;
  const Mutation mutation{"tanh", Mutation::Kind::twice, 0, &applied};
  options.mutation = &mutation;
  const GradcheckReport wrong = gradcheck(program, {x}, options);
  CHECK(applied);
  CHECK(wrong.verdict == Verdict::fail);
  CHECK_MESSAGE(wrong.culprit.find("(tanh)") != std::string::npos, wrong.culprit);
}

TEST_CASE("an expectation over a device's draws is the host's") {
  const auto program = [](Tape& tape, std::span<const Var> in) {
    const Tensor drawn = tape.decisions().categorical("draw", softmax(in[0]).value(), tape.rng());
    return sum(square(take_columns(in[0], drawn.reshape({2, 1}))));
  };
  const Tensor x = row({0.3, -0.7, 1.1, 0.2, 0.9, -1.3}).reshape({2, 3});
  const Expectation here = expectation(program, {x});
  const Expectation there = expectation(program, {x}, {.device = Device::guarded});
  CHECK(here.exact);
  CHECK(there.exact);
  CHECK(there.outcomes == here.outcomes);
  CHECK(there.loss == here.loss);
  CHECK(there.gradient[0].same_bits(here.gradient[0]));
  CHECK(there.biased());
}

TEST_CASE("a tape tells what it holds on a device") {
  Tape t;
  const Var x = t.variable(row({1, 2, 3}).to(Device::guarded));
  sum(square(x) * x);
  CHECK(t.bytes_saved() == 48);  // x once, and its square
  CHECK(t.table().find("square") != std::string::npos);
  CHECK(t.dot().find("square") != std::string::npos);
}

TEST_CASE("a replayed decision is answered on the device that the others are made on") {
  Decisions decisions = Decisions::recorder();
  bool fails = false;
  const auto ask = [&] {
    return decisions.decide("numbers", DType::f64, {3}, [&] {
      if (fails) throw Error("[test] outside of the domain.");
      return row({1, 2, 3}).to(Device::guarded);
    });
  };
  ask();
  decisions.replay();
  fails = true;
  CHECK(ask().device() == Device::guarded);
}

TEST_CASE("a decision that was given is replayed on the device that it was given for") {
  Decisions decisions = Decisions::recorder();
  decisions.give("numbers", row({4, 5}).to(Device::guarded));
  const auto ask = [&] {
    return decisions.decide("numbers", DType::f64, {2}, [] {
      return row({1, 2}).to(Device::guarded);
    });
  };
  ask();
  decisions.replay();
  const Tensor again = ask();
  CHECK(again.device() == Device::guarded);
  CHECK(again.to_vector() == std::vector<double>{4, 5});
}

TEST_CASE("a program's gradients on the guarded device have the CPU's bits") {
  const Tensor x = Rng{3, 1, 0}.normal({4, 5}, DType::f64);
  const auto gradient_on = [&](Device device) {
    Tape tape;
    const Var v = tape.variable(x.to(device));
    return tape.backward(sum(square(softmax(tanh(v)))))[v].to(Device::cpu);
  };
  CHECK(gradient_on(Device::guarded).same_bits(gradient_on(Device::cpu)));
}
