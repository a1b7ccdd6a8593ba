#include "lab/tape_page.h"

#include <limits>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "autograd/parameters.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using nlohmann::json;
using test::error_of;

json data_of(Tape& tape, Var output, const TapePage& page = {}) {
  return json::parse(tape_page_data(tape, output, page));
}
json numbers(const json& tensor) { return tensor.at("numbers"); }

TEST_CASE("tape_page_data: values, adjoints, and what each operation adds to them") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({2}, {3.0, -1.0}));
  const Var c = t.constant(Tensor::of<double>({2}, {10.0, 20.0}));
  const Var y = square(x) * c;
  const Var z = y + x;
  const Var loss = sum(z);
  const json d = data_of(t, loss, {.names = {{x, "x"}, {loss, "L"}}});
  REQUIRE(d["nodes"].size() == 6);
  CHECK(d["output"] == 5);
  const json& nodes = d["nodes"];
  CHECK(nodes[0]["operation"] == "variable");
  CHECK(nodes[0]["claim"].is_null());
  CHECK(nodes[0]["name"] == "x");
  CHECK(nodes[0]["learns"] == true);
  CHECK(nodes[1]["learns"] == false);
  CHECK(nodes[1]["adjoint"].is_null());
  CHECK(nodes[2]["operation"] == "square");
  CHECK(nodes[2]["claim"] == "exact");
  CHECK(nodes[2]["inputs"] == json{0});
  CHECK(nodes[3]["inputs"] == json{2, 1});
  CHECK(nodes[3]["shape"] == json{2});
  CHECK(nodes[5]["name"] == "L");
  CHECK(nodes[5]["shape"] == json::array());
  CHECK(numbers(nodes[3]["value"]) == json{90, 20});
  CHECK(numbers(nodes[5]["adjoint"]) == json{1});
  CHECK(numbers(nodes[2]["adjoint"]) == json{10, 20});
  // dL/dx = 2 x c + 1: the last operation that reads x gives first.
  CHECK(numbers(nodes[0]["adjoint"]) == json{61, -39});
  CHECK(nodes[4]["gives"][1]["to"] == 0);
  CHECK(numbers(nodes[4]["gives"][1]["sum"]) == json{1, 1});
  CHECK(numbers(nodes[2]["gives"][0]["part"]) == json{60, -40});
  CHECK(numbers(nodes[2]["gives"][0]["sum"]) == json{61, -39});
  // square keeps x, mul keeps both factors.
  CHECK(nodes[0]["saved"] == 16);
  CHECK(nodes[1]["saved"] == 16);
  CHECK(nodes[2]["saved"] == 16);
  CHECK(nodes[4]["saved"] == 0);
}

TEST_CASE("tape_page_data: an operation that reads a value twice gives it the sum, once") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({1}, {3.0}));
  const json d = data_of(t, sum(x * x));
  REQUIRE(d["nodes"][1]["gives"].size() == 1);
  CHECK(numbers(d["nodes"][1]["gives"][0]["part"]) == json{6});
}

TEST_CASE("tape_page_data: claims, stopped gradients, parameters, a cotangent") {
  Tape t;
  const Parameter p{.name = "layer.w", .value = Tensor::of<double>({2}, {0.5, -2.0})};
  const Var w = t.parameter(p);
  const Var soft = tanh(w);
  const Var hard = sign(w);
  const Var stopped = stop_gradient(hard);
  const Var y = straight_through(stopped, soft);
  const json d = data_of(t, y, {.cotangent = Tensor::of<double>({2}, {1.0, 10.0})});
  const json& nodes = d["nodes"];
  CHECK(nodes[0]["name"] == "layer.w");
  CHECK(nodes[2]["claim"] == "exact on the cell");
  CHECK(nodes[3]["stopped"] == 2);
  CHECK(nodes[3]["operation"] == "constant");
  CHECK(nodes[4]["claim"] == "surrogate");
  CHECK(nodes[2]["adjoint"].is_null());  // a gradient is wanted of it, and none comes
  CHECK(nodes[2]["learns"] == true);
  CHECK(numbers(nodes[1]["adjoint"]) == json{1, 10});
  for (const std::size_t i : {0U, 1U, 2U, 4U}) CHECK(nodes[i]["stopped"] == -1);
}

TEST_CASE("tape_page_data: leaves the tape as it was") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({2}, {0.5, 2.0}));
  const Var loss = sum(tanh(x) * x);
  const std::string before = t.table();
  const std::string first = tape_page_data(t, loss, {});
  CHECK(t.table() == before);
  CHECK(tape_page_data(t, loss, {}) == first);
  const Tensor g = t.backward(loss)[x];
  CHECK(g.at(0) == doctest::Approx(numbers(json::parse(first)["nodes"][0]["adjoint"])[0]));
}

TEST_CASE("tape_page_data: long values are cut, what is not finite is a text") {
  Tape t;
  const double infinity = std::numeric_limits<double>::infinity();
  const Var x = t.variable(Tensor::full({5, 20}, 1.25, DType::f64, Device::cpu));
  const Var y = t.variable(Tensor::of<double>({3}, {infinity, -infinity, std::nan("")}));
  const json d = data_of(t, sum(x) + sum(y));
  CHECK(d["nodes"][0]["value"]["of"] == 100);
  CHECK(numbers(d["nodes"][0]["value"]).size() == 64);
  CHECK(d["nodes"][0]["value"]["finite"] == true);
  CHECK(numbers(d["nodes"][1]["value"]) == json{"inf", "-inf", "nan"});
  CHECK(d["nodes"][1]["value"]["finite"] == false);
}

TEST_CASE("tape_page: errors") {
  Tape t;
  Var x = t.variable(Tensor::scalar(1.0));
  while (t.size() < kMostNodes) x = tanh(x);
  CHECK(data_of(t, x)["nodes"].size() == 300);
  x = tanh(x);
  CHECK(error_of([&] { (void)tape_page_data(t, x, {}); }) ==
        "[tape] the tape has 301 nodes, and a page shows at most 300. Record a part of the "
        "program, or print Tape::table().");

  Tape other;
  const Var y = other.variable(Tensor::scalar(2.0));
  const Var loss = square(square(y));
  CHECK(error_of([&] {
          (void)tape_page_data(other, loss, {.names = {{x, "x"}}});
        }) == "[tape] 'x' is on another tape. Name values of this one.");
  (void)other.backward(loss);
  CHECK(error_of([&] { (void)tape_page(other, loss); }) ==
        "[backward] node 2 ('square') was released by an earlier backward pass. Read it before, or "
        "pass retain.");
}

TEST_CASE("tape_page: the data is in the page") {
  Tape t;
  const Var x = t.variable(Tensor::scalar(2.0));
  const std::string page = tape_page(t, square(x), {.title = "x < y", .text = "One."});
  CHECK(page.find("<title>x &lt; y</title>") != std::string::npos);
  CHECK(page.find(R"({"text":"One.","output":1,"nodes":[)") != std::string::npos);
}

}  // namespace
}  // namespace moegrad
