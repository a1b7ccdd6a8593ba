#include "moe/convolution.h"

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"
#include "train/modules.h"

using namespace moegrad;
using test::error_of;

namespace {

LayerConfig images(const std::string& router = "top-k", std::int64_t active = 2) {
  LayerConfig config;
  config.size = {256, 3, 3, 4, active};
  config.expert = ExpertKind::convolutional;
  config.router = router;
  return config;
}

Parameters parameters_of(const Layer& layer) {
  Parameters all;
  layer.declare("", all, Rng{2, 0, 0});
  for (Parameter& p : all) {  // no bias is zero
    p.value = Rng{3, 0, 0}.named(p.name).uniform(p.value.shape(), DType::f64, -0.3, 0.3);
  }
  return all;
}

// Of one expert and one image, in plain loops.
std::vector<double> plain_expert(const Parameters& all, std::int64_t e, const double* image) {
  const auto value = [&](const char* name) {
    for (const Parameter& p : all) {
      if (p.name == name) return p.value;
    }
    return Tensor();
  };
  const auto layer = [&](const std::vector<double>& x, std::int64_t channels, std::int64_t side,
                         const Tensor& w, const Tensor& b) {
    const std::int64_t filters = w.size(1);
    const std::int64_t out = side - 4;
    std::vector<double> y(static_cast<std::size_t>(filters * out * out));
    for (std::int64_t f = 0; f < filters; ++f) {
      for (std::int64_t r = 0; r < out; ++r) {
        for (std::int64_t c = 0; c < out; ++c) {
          double sum = b.at(e * filters + f);
          for (std::int64_t i = 0; i < channels * 25; ++i) {
            const std::int64_t at = i / 25 * side * side + (r + i % 25 / 5) * side + c + i % 5;
            sum += x[static_cast<std::size_t>(at)] * w.at((e * filters + f) * channels * 25 + i);
          }
          y[static_cast<std::size_t>((f * out + r) * out + c)] = std::fmax(0.0, sum);
        }
      }
    }
    std::vector<double> pooled;
    for (std::int64_t f = 0; f < filters; ++f) {
      for (std::int64_t r = 0; r + 1 < out; r += 2) {
        for (std::int64_t c = 0; c + 1 < out; c += 2) {
          const double* at = y.data() + (f * out + r) * out + c;
          pooled.push_back(std::fmax(std::fmax(at[0], at[1]), std::fmax(at[out], at[out + 1])));
        }
      }
    }
    return pooled;
  };
  const std::vector<double> x(image, image + 256);
  const auto first = layer(x, 1, 16, value("experts.w1"), value("experts.b1"));
  const auto second = layer(first, 10, 6, value("experts.w2"), value("experts.b2"));
  REQUIRE(second.size() == 20);
  std::vector<double> h(3);
  for (std::int64_t o = 0; o < 3; ++o) {
    h[static_cast<std::size_t>(o)] = value("experts.b3").at(e * 3 + o);
    for (std::int64_t i = 0; i < 20; ++i) {
      h[static_cast<std::size_t>(o)] +=
          second[static_cast<std::size_t>(i)] * value("experts.w3").at((e * 20 + i) * 3 + o);
    }
  }
  return h;
}

}  // namespace

TEST_CASE("convolutional experts: a layer of them equals plain loops over its choices") {
  const Layer layer(images());
  const Parameters all = parameters_of(layer);
  const Tensor x = Rng{5, 0, 0}.normal({6, 256}, DType::f64);
  Tape tape;
  const Weights weights = moegrad::bind(tape, all, "");
  const LayerOutput out = layer.forward(tape.constant(x), weights, true);
  REQUIRE(out.y.shape() == Shape{6, 3});
  for (std::int64_t n = 0; n < 6; ++n) {
    std::vector<double> want(3, 0.0);
    for (std::int64_t j = 0; j < 2; ++j) {
      const std::int64_t e =
          out.routing.selected.values<std::int32_t>()[static_cast<std::size_t>(n * 2 + j)];
      const std::vector<double> h = plain_expert(all, e, x.data<double>() + n * 256);
      for (std::size_t o = 0; o < 3; ++o)
        want[o] += out.routing.weights.value().at(n * 2 + j) * h[o];
    }
    for (std::int64_t o = 0; o < 3; ++o) {
      CHECK(out.y.value().at(n * 3 + o) ==
            doctest::Approx(want[static_cast<std::size_t>(o)]).epsilon(1e-10));
    }
  }
}

TEST_CASE("convolutional experts: every estimator and router that merges takes them") {
  const Tensor x = Rng{5, 0, 0}.normal({6, 256}, DType::f64);
  const auto check = [&](LayerConfig config) {
    CAPTURE(config.router);
    CAPTURE(config.estimator);
    const Layer layer(config);
    const Parameters all = parameters_of(layer);
    Tape tape;
    const LayerOutput out = layer.forward(tape.constant(x), moegrad::bind(tape, all, ""), true);
    const Gradients g = tape.backward(sum(square(out.y)));
    for (const Parameter& p : all) {
      double size = 0.0;
      for (const double v : g[p].to_vector()) size += v * v;
      CAPTURE(p.name);
      CHECK(std::isfinite(size));
      if (p.trained) CHECK(size > 0.0);
    }
  };
  for (const char* estimator :
       {"sparse", "ste-dense", "ste-dense-router", "expert-group", "default-ema"}) {
    LayerConfig config = images();
    config.estimator = estimator;
    check(config);
  }
  for (const char* router : {"softmax", "smear", "soft-moe", "moesart"}) check(images(router));
}

TEST_CASE("convolutional experts: one that no token chose has no gradient, and no slot is none") {
  const Layer layer(images("top-k", 1));
  Parameters all = parameters_of(layer);
  Parameter* const bias = all.find("router.bias");
  bias->value = Tensor::of({4}, std::vector<double>{0.0, 1e4, 0.0, 0.0});  // all choose the second
  const Tensor x = Rng{5, 0, 0}.normal({3, 256}, DType::f64);
  Tape tape;
  const LayerOutput out = layer.forward(tape.constant(x), moegrad::bind(tape, all, ""), true);
  const Gradients g = tape.backward(sum(out.y));
  for (const char* name : {"experts.w1", "experts.w2", "experts.w3", "experts.b1"}) {
    const Tensor d = g[*all.find(name)];
    for (std::int64_t e = 0; e < 4; ++e) {
      double size = 0.0;
      for (const double v : d.rows(e, e + 1).to_vector()) size += v * v;
      CHECK((size > 0.0) == (e == 1));
    }
  }
  Experts experts;
  experts.kind = ExpertKind::convolutional;
  const Weights weights = moegrad::bind(tape, all, "experts.");
  experts.w1 = weights.at("w1");
  experts.b1 = weights.at("b1");
  experts.w2 = weights.at("w2");
  experts.b2 = weights.at("b2");
  experts.w3 = weights.at("w3");
  experts.b3 = weights.at("b3");
  const Plan none = make_plan(Tensor::of({3, 1}, std::vector<std::int32_t>{-1, -1, -1}), 4);
  const Tensor h = experts(tape.constant(x), none).value();
  CHECK(h.shape() == Shape{none.slots(), 3});
}

TEST_CASE("errors of convolutional experts") {
  const auto error = [](std::int64_t pixels) {
    return error_of([&] { ConvolutionSize size(pixels); });
  };
  CHECK(error(784) == "no error");
  CHECK(error(256) == "no error");
  CHECK(ConvolutionSize(784).row == 320);
  CHECK(ConvolutionSize(1296).row == 720);
  CHECK(error(783) ==
        "[experts] rows of 783 are no images of 16 x 16 pixels or more. Give convolutional experts "
        "those "
        "of a square: a width of 784 for 28 x 28.");
  CHECK(error(225) != "no error");
  LayerConfig config = images();
  config.options["erc"] = "0.1";
  CHECK(error_of([&] { Layer layer(config); }) ==
        "[layer] erc is 0.1, of experts that are matrices, and these are convolutional. Leave it "
        "out.");
}
