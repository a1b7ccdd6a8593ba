#include "train/encoder.h"

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tests/temporary_files.h"
#include "train/modules.h"

namespace moegrad {
namespace {

using test::error_of;
using Ids = std::vector<std::int32_t>;

Tensor texts_of(const Shape& shape, const Ids& ids) { return Tensor::of(shape, ids); }

Ids values_of(const Tensor& t) {
  return {t.values<std::int32_t>().begin(), t.values<std::int32_t>().end()};
}

constexpr EncoderSize kSize = {.pieces = 9, .places = 5, .width = 4, .heads = 2, .layers = 2};

Parameters parameters_of(const EncoderSize& size) {
  Parameters parameters;
  declare_encoder(size, parameters, Rng{3, 0, 0});
  for (Parameter& p : parameters) {  // nothing is zero or one
    if (!p.name.ends_with("weight")) {
      p.value = Rng{4, 0, 0}.named(p.name).normal(p.value.shape(), DType::f64, 0.5, 0.5);
    }
  }
  return parameters;
}

}  // namespace

TEST_CASE("tokens: rows of what is there, and cells of the longest text") {
  const Tokens t(texts_of({3, 4}, {7, 8, 0, 0, 5, 0, 0, 0, 1, 2, 3, 0}));
  CHECK(t.texts == 3);
  CHECK(t.length == 3);
  CHECK(values_of(t.ids) == Ids{7, 8, 5, 1, 2, 3});
  CHECK(values_of(t.places) == Ids{0, 1, 0, 0, 1, 2});
  CHECK(values_of(t.text_of) == Ids{0, 0, 1, 2, 2, 2});
  CHECK(values_of(t.cells) == Ids{0, 1, 3, 6, 7, 8});
  CHECK(values_of(t.rows) == Ids{0, 1, -1, 2, -1, -1, 3, 4, 5});
  CHECK(values_of(t.mask) == Ids{1, 1, 0, 1, 0, 0, 1, 1, 1});
  CHECK(values_of(t.lengths) == Ids{2, 1, 3});
  Tape tape;
  const Var x = tape.variable(Rng{1, 0, 0}.normal({6, 2}, DType::f64));
  CHECK(t.packed(t.padded(x)).value().same_bits(x.value()));
  CHECK(t.padded(x).value().at(2 * 2) == 0.0);

  CHECK(error_of([] {
          Tokens(texts_of({0, 2}, {}));
        }) ==
        "[encoder] texts are i32 [0, 2]. Give i32 [B, W] of one or more, zeros behind the end of "
        "each.");
  CHECK(error_of([] {
          Tokens(texts_of({2, 2}, {1, 2, 0, 0}));
        }) == "[encoder] text 1 has no token. Give its ids, none of them 0, and zeros behind.");
  CHECK(error_of([] {
          Tokens(texts_of({1, 3}, {1, 0, 2}));
        }) ==
        "[encoder] text 0 has a 0 before its end. Give its ids, none of them 0, and zeros behind.");
  CHECK(
      error_of([] {
        Tokens(texts_of({2}, {1, 2}));
      }) ==
      "[encoder] texts are i32 [2]. Give i32 [B, W] of one or more, zeros behind the end of each.");
}

TEST_CASE("sentence_embedding: the direction of the mean of a text's tokens") {
  const Tokens t(texts_of({2, 2}, {1, 2, 3, 0}));
  Tape tape;
  const Var h =
      tape.constant(Tensor::of({3, 2}, std::vector<double>{1.0, 2.0, 5.0, 6.0, 0.0, -2.0}));
  const Tensor e = sentence_embedding(t, h).value();
  CHECK(e.at(0) == doctest::Approx(0.6));
  CHECK(e.at(1) == doctest::Approx(0.8));
  CHECK(e.at(2) == doctest::Approx(0.0));
  CHECK(e.at(3) == doctest::Approx(-1.0));
}

// One text, one head after the other, in plain loops.
TEST_CASE("encoded: equals plain loops over one text") {
  EncoderSize size = kSize;
  size.layers = 1;
  const Parameters parameters = parameters_of(size);
  const std::vector<std::int32_t> text = {3, 8, 1};
  using Row = std::vector<double>;
  const auto value = [&](const std::string& name) {
    for (const Parameter& p : parameters) {
      if (p.name == name) return p.value;
    }
    return Tensor();
  };
  const auto normed = [&](const Row& x, const std::string& prefix) {
    double mean = 0.0;
    double variance = 0.0;
    for (const double v : x) mean += v / 4.0;
    for (const double v : x) variance += (v - mean) * (v - mean) / 4.0;
    Row y(4);
    for (std::size_t i = 0; i < 4; ++i) {
      const auto at = static_cast<std::int64_t>(i);
      y[i] = (x[i] - mean) / std::sqrt(variance + 1e-12) * value(prefix + "scale").at(at) +
             value(prefix + "shift").at(at);
    }
    return y;
  };
  const auto mapped = [&](const Row& x, const std::string& prefix) {
    Row y(4);
    for (std::size_t o = 0; o < 4; ++o) {
      y[o] = value(prefix + "bias").at(static_cast<std::int64_t>(o));
      for (std::size_t i = 0; i < 4; ++i) {
        y[o] += x[i] * value(prefix + "weight").at(static_cast<std::int64_t>(i * 4 + o));
      }
    }
    return y;
  };
  std::vector<Row> h(3, Row(4)), q, k, v;
  for (std::size_t t = 0; t < 3; ++t) {
    for (std::int64_t i = 0; i < 4; ++i) {
      h[t][static_cast<std::size_t>(i)] =
          value("embedding.piece").at(text[t] * 4 + i) +
          value("embedding.place").at(static_cast<std::int64_t>(t) * 4 + i);
    }
    h[t] = normed(h[t], "embedding.");
    q.push_back(mapped(h[t], "0.attention.q."));
    k.push_back(mapped(h[t], "0.attention.k."));
    v.push_back(mapped(h[t], "0.attention.v."));
  }
  std::vector<Row> want;
  for (std::size_t t = 0; t < 3; ++t) {
    Row seen(4, 0.0);
    for (std::size_t head = 0; head < 2; ++head) {
      double total = 0.0;
      Row p(3);
      for (std::size_t j = 0; j < 3; ++j) {
        p[j] =
            std::exp((q[t][2 * head] * k[j][2 * head] + q[t][2 * head + 1] * k[j][2 * head + 1]) /
                     std::sqrt(2.0));
        total += p[j];
      }
      for (std::size_t j = 0; j < 3; ++j) {
        for (std::size_t c = 2 * head; c < 2 * head + 2; ++c) seen[c] += p[j] / total * v[j][c];
      }
    }
    Row y = mapped(seen, "0.attention.o.");
    for (std::size_t i = 0; i < 4; ++i) y[i] += h[t][i];
    y = normed(y, "0.norm1.");
    for (double& x : y) x += 2.0 * x;  // the network: twice its input
    want.push_back(normed(y, "0.norm2."));
  }
  Tape tape;
  const Tokens tokens(texts_of({2, 4}, {4, 0, 0, 0, 3, 8, 1, 0}));  // beside another
  const Tensor got =
      encoded(tokens, size, moegrad::bind(tape, parameters, ""), [](std::int64_t, Var x) {
        return 2.0 * x;
      }).value();
  REQUIRE(got.shape() == Shape{4, 4});
  for (std::int64_t t = 0; t < 3; ++t) {
    for (std::int64_t i = 0; i < 4; ++i) {
      CHECK(got.at((t + 1) * 4 + i) ==
            doctest::Approx(want[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)])
                .epsilon(1e-10));
    }
  }
}

TEST_CASE("errors of an encoder") {
  Parameters parameters;
  EncoderSize odd = kSize;
  odd.heads = 3;
  CHECK(error_of([&] {
          declare_encoder(odd, parameters, Rng{1, 0, 0});
        }) == "[encoder] width 4 in 3 heads. Give a width that is a multiple of the heads.");
  const Parameters all = parameters_of(kSize);
  Tape tape;
  const Tokens tokens(texts_of({1, 6}, {1, 2, 3, 4, 5, 6}));
  CHECK(error_of([&] {
          encoded(tokens, kSize, moegrad::bind(tape, all, ""),
                  [](std::int64_t, Var x) { return x; });
        }) == "[encoder] a text has 6 tokens, and there are 5 places. Cut it.");
}

}  // namespace moegrad
