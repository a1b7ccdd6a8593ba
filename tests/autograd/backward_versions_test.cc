// Values that are written between the forward pass and a backward pass: autograd/backward.cc.

#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "autograd/parameters.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "tests/autograd/row.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::row;

namespace {

// Saves a tensor of its own making: twice the input. y = sum x^2.
struct SavesTwice {
  static constexpr std::string_view name = "saves_twice", summary = "sum of squares";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) {
    Tensor twice = in[0].clone();
    kernels(twice.device()).accumulate(1.0, in[0], twice);
    in.save(twice);
    last = twice;
    double sum = 0.0;
    for (const double x : in[0].values<double>()) sum += x * x;
    return Tensor::scalar(sum);
  }
  static void backward(Backward& b, const NoAttributes&) {
    Tensor dx = b.saved(0).clone();
    for (double& d : dx.write_values<double>()) d *= b.dy().item();
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
  static inline Tensor last;
};

}  // namespace

TEST_CASE("versions: counted by whoever may write, shared by views, not by readers") {
  Tensor a = Tensor::zeros({4, 2}, DType::f64, Device::cpu);
  const std::uint32_t start = a.version();
  const Tensor& reader = a;
  CHECK(reader.data<double>()[0] == 0.0);
  CHECK(a.data<const double>()[0] == 0.0);
  CHECK(reader.values<double>().size() == 8);
  CHECK(a.at(3) == 0.0);
  CHECK(a.to_vector().size() == 8);
  CHECK(a.clone().same_bits(a));
  CHECK(a.version() == start);

  a.write<double>()[0] = 1.0;
  CHECK(a.version() == start + 1);
  a.rows(1, 2).write<double>()[0] = 2.0;
  CHECK(a.version() == start + 2);
  CHECK(a.at(2) == 2.0);
  a.reshape({8}).write_values<double>()[7] = 3.0;
  CHECK(a.version() == start + 3);
  reader.write<double>()[1] = 4.0;
  CHECK(a.version() == start + 4);
  kernels(a.device()).fill(5.0, reader);
  CHECK(a.version() == start + 5);
  CHECK(a.clone().version() < 3);  // a storage of its own
  CHECK(Tensor().version() == 0);
}

TEST_CASE("versions: a written input is refused, with operation, tensor and both versions") {
  Tape t;
  const Var x = t.variable(row({1, 2, 3}));
  const Var loss = sum(square(x));
  const std::uint32_t then = x.value().version();
  CHECK(t.backward(loss, {.retain = true})[x].to_vector() == std::vector<double>{2, 4, 6});
  CHECK(t.backward(loss, {.retain = true})[x].to_vector() == std::vector<double>{2, 4, 6});
  x.value().write<double>()[1] = 7.0;
  CHECK(error_of([&] { t.backward(loss); }) ==
        fmt::format("[backward] node 1 ('square') needs its input 0 (node 0, 'variable'), f64 [3], "
                    "at version {}; it was written since and is at version {}. Run backward before "
                    "the tensor changes, or record the program again.",
                    then, then + 1));
  // Recorded again, with what is there now.
  t.clear();
  const Var again = t.variable(row({1, 7, 3}));
  CHECK(t.backward(sum(square(again)))[again].to_vector() == std::vector<double>{2, 14, 6});
}

TEST_CASE("versions: a first backward pass refuses too") {
  Tape t;
  Tensor given = row({1, 2});
  const Var x = t.variable(given);
  const Var loss = sum(x * x);
  given.write<double>()[0] = 3.0;
  CHECK(error_of([&] { t.backward(loss); }).find("('mul') needs its input ") != std::string::npos);
}

TEST_CASE("versions: through views of an input's storage") {
  for (const bool by_rows : {true, false}) {
    CAPTURE(by_rows);
    Tape t;
    const Tensor given = row({1, 2, 3, 4}).reshape({2, 2});
    const Var x = t.variable(given);
    const Var loss = sum(exp(reshape(x, {4})) * reshape(x, {4}));
    Tensor view = by_rows ? given.rows(1, 2) : given.reshape({4});
    CHECK(view.at(0) == (by_rows ? 3.0 : 1.0));
    t.backward(loss, {.retain = true});
    view.write<double>()[0] = 9.0;
    CHECK(error_of([&] { t.backward(loss); }).find("it was written since") != std::string::npos);
  }
}

TEST_CASE("versions: a written output, and a written saved tensor") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var y = exp(x);
  const Var loss = sum(y);
  Tensor value = y.value();
  const std::uint32_t then = value.version();
  value.write<double>()[0] = 0.0;
  CHECK(error_of([&] { t.backward(loss); }) ==
        fmt::format("[backward] node 1 ('exp') needs its output, f64 [2], at version {}; it was "
                    "written since and is at version {}. Run backward before the tensor changes, "
                    "or record the program again.",
                    then, then + 1));

  Tape other;
  const Var z = other.variable(row({3}));
  const Var square_sum = apply<SavesTwice>({z});
  CHECK(other.backward(square_sum, {.retain = true})[z].at(0) == 6.0);
  SavesTwice::last.write<double>()[0] = 1.0;
  CHECK(error_of([&] {
          other.backward(square_sum);
        }).find("('saves_twice') needs its saved tensor 0, f64 [1], at version") !=
        std::string::npos);
  SavesTwice::last = Tensor();
}

TEST_CASE("versions: indices count as values do") {
  Tape t;
  const Var x = t.variable(row({1, 2, 3}).reshape({3, 1}));
  Tensor index = Tensor::of<std::int32_t>({2}, {0, 2});
  const Var loss = sum(gather_rows(x, index));
  CHECK(t.backward(loss, {.retain = true})[x].to_vector() == std::vector<double>{1, 0, 1});
  index.write<std::int32_t>()[0] = 1;
  CHECK(error_of([&] { t.backward(loss); }).find("i32 [2], at version") != std::string::npos);
}

TEST_CASE("versions: what backward does not read may change") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var y = x + x;
  const Var loss = sum(y);
  x.value().write<double>()[0] = 5.0;
  y.value().write<double>()[0] = 5.0;
  CHECK(t.backward(loss)[x].to_vector() == std::vector<double>{2, 2});
}

TEST_CASE("versions: a value written before it is used is what backward reads") {
  Tape t;
  Tensor given = row({1, 2});
  const Var x = t.variable(given);
  given.write<double>()[0] = 4.0;
  const Var loss = sum(square(x));
  CHECK(t.backward(loss)[x].to_vector() == std::vector<double>{8, 4});
}

TEST_CASE("versions: reading values and gradients between two passes changes nothing") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var y = exp(x) * x;
  const Var loss = sum(y);
  const std::vector<double> first = t.backward(loss, {.retain = true, .keep = {y}})[x].to_vector();
  CHECK(y.value().at(0) == doctest::Approx(std::exp(1.0)));
  const Tensor copy = x.value().clone();
  const Tensor value = x.value();
  CHECK(*std::ranges::max_element(value.values<double>()) == 2.0);
  CHECK(copy.same_bits(value));
  CHECK(t.table().find("mul") != std::string::npos);
  CHECK(t.backward(loss)[x].to_vector() == first);
}
