#include "train/modules.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;

Parameters declared(const auto&... modules) {
  Parameters parameters;
  Rng rng{3, 0, 0};
  (modules(parameters, rng), ...);
  return parameters;
}

TEST_CASE("modules: linear is x W + b, with bounded initial weights") {
  const Linear linear{3, 2};
  Parameters p = declared([&](Parameters& to, Rng& rng) { linear.declare("a.", to, rng); });
  REQUIRE(p.size() == 2);
  REQUIRE(p.find("a.weight") != nullptr);
  for (const double w : p.find("a.weight")->value.to_vector()) {
    CHECK(std::abs(w) <= std::sqrt(1.0 / 3.0));
  }
  CHECK(p.find("a.bias")->value.to_vector() == std::vector<double>{0, 0});
  p.find("a.weight")->value = Tensor::of<double>({3, 2}, {1, 2, 3, 4, 5, 6});
  p.find("a.bias")->value = Tensor::of<double>({2}, {0.5, -1});
  Tape tape;
  const Var y = linear(tape.constant(Tensor::of<double>({1, 3}, {1, -1, 2})), bind(tape, p, "a."));
  CHECK(y.value().to_vector() == std::vector<double>{1 - 3 + 10 + 0.5, 2 - 4 + 12 - 1});
}

TEST_CASE("modules: layer norm starts as the plain normalisation") {
  const LayerNormModule norm{4};
  const Parameters p = declared([&](Parameters& to, Rng&) { norm.declare("n.", to); });
  Tape tape;
  const Var y = norm(tape.constant(Tensor::of<double>({1, 4}, {1, 2, 3, 4})), bind(tape, p, "n."));
  const double scale = 1.0 / std::sqrt(1.25 + 1e-5);
  for (int i = 0; i < 4; ++i) CHECK(y.value().at(i) == doctest::Approx((i - 1.5) * scale));
}

TEST_CASE("modules: bind takes what has the prefix, and no gradient of what is not trained") {
  Parameters p;
  p.add("a.x", Tensor::scalar(2.0));
  p.add("a.y", Tensor::scalar(3.0), false);
  p.add("b.x", Tensor::scalar(5.0));
  Tape tape;
  const Weights w = bind(tape, p, "a.");
  CHECK(w.at("x").needs_gradient());
  CHECK(!w.at("y").needs_gradient());
  CHECK(error_of([&] { w.at("z"); }) == "[layer] no parameter 'z'. Give it with the others.");
  const Gradients g = tape.backward(w.at("x") * w.at("y"));
  CHECK(g[*p.find("a.x")].item() == 3.0);
  CHECK(g[*p.find("b.x")].item() == 0.0);
}

}  // namespace
}  // namespace moegrad
