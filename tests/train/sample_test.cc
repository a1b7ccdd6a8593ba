#include "train/sample.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace moegrad {
namespace {

std::vector<double> logits_of(std::map<int, double> logits) {
  std::vector<double> all(256, -1e9);
  for (const auto& [byte, logit] : logits) all[static_cast<std::size_t>(byte)] = logit;
  return all;
}

// The shares of a grid of draws.
std::map<int, double> shares_of(const std::vector<double>& logits, const SampleOptions& options) {
  std::map<int, double> shares;
  constexpr int kDraws = 10000;
  for (int i = 0; i < kDraws; ++i) {
    shares[drawn_piece(logits, options, (i + 0.5) / kDraws)] += 1.0 / kDraws;
  }
  return shares;
}

TEST_CASE("bytes are drawn with the chances of the softmax") {
  const auto logits = logits_of({{65, std::log(0.5)}, {66, std::log(0.3)}, {200, std::log(0.2)}});
  auto shares = shares_of(logits, {});
  CHECK(shares.size() == 3);
  CHECK(shares[65] == doctest::Approx(0.5).epsilon(1e-3));
  CHECK(shares[66] == doctest::Approx(0.3).epsilon(1e-3));
  CHECK(shares[200] == doctest::Approx(0.2).epsilon(1e-3));

  shares = shares_of(logits, {.temperature = 0.5});  // squares of the chances
  CHECK(shares[65] == doctest::Approx(0.25 / 0.38).epsilon(1e-3));
  shares = shares_of(logits, {.temperature = 0.0});
  CHECK(shares.size() == 1);
  CHECK(shares.count(65) == 1);

  shares = shares_of(logits, {.top_p = 0.79});  // 0.5 + 0.3 reach it
  CHECK(shares.size() == 2);
  CHECK(shares[65] == doctest::Approx(0.625).epsilon(1e-3));
  CHECK(shares_of(logits, {.top_p = 0.81}).size() == 3);
  CHECK(shares_of(logits, {.top_p = 1e-9}).size() == 1);
  CHECK(drawn_piece(logits_of({{7, 0.0}, {9, 0.0}}), {.temperature = 0.0}, 0.9) == 7);
}

TEST_CASE("text goes on beyond the context, the same for the same seed") {
  LayerConfig layer;
  layer.size = {.model = 8, .hidden = 4, .output = 8, .experts = 3, .active = 1};
  layer.activation = Activation::swiglu;
  const LanguageModel model({.layers = 2, .heads = 2, .context = 6}, layer);
  const Parameters p = model.initial(1, DType::f32);
  const auto text = [&](std::string_view prompt, const SampleOptions& options) {
    std::string all;
    sample_text(model, p, prompt, options, [&](std::string_view piece) {
      all += piece;
      return all.size() < 30;
    });
    return all;
  };
  const std::string one = text("abc", {.bytes = 20, .seed = 3});
  CHECK(one.size() == 20);
  CHECK(one == text("abc", {.bytes = 20, .seed = 3}));
  CHECK(one != text("abc", {.bytes = 20, .seed = 4}));
  CHECK(one.substr(0, 5) == text("abc", {.bytes = 5, .seed = 3}));
  CHECK(text("a prompt beyond the context", {.bytes = 40}).size() == 30);  // ended by the writer
  CHECK(text("", {.bytes = 1}).size() == 1);
}

TEST_CASE("pieces of several bytes are written whole, but for the last") {
  LayerConfig layer;
  layer.size = {.model = 8, .hidden = 4, .output = 8, .experts = 3, .active = 1};
  layer.activation = Activation::swiglu;
  const LanguageModel model({.layers = 2, .heads = 2, .context = 4}, layer,
                            BytePairs(std::vector<BytePairs::Pair>{{'a', 'b'}, {256, 'c'}}));
  Parameters p = model.initial(1, DType::f32);
  // All hidden states are alike, and the tied head knows "abc" alone.
  Parameter& embedding = *p.find("embedding");
  embedding.value = Tensor::zeros({258, 8}, DType::f32, Device::cpu);
  for (int i = 0; i < 8; ++i) embedding.value.write<float>()[257 * 8 + i] = 1.0F;
  const auto text = [&](std::int64_t bytes, std::string_view prompt) {
    std::vector<std::string> pieces;
    sample_text(model, p, prompt, {.temperature = 0.0, .bytes = bytes}, [&](std::string_view s) {
      pieces.emplace_back(s);
      return true;
    });
    return pieces;
  };
  // The prompt is the one piece "abc".
  const auto pieces = text(17, "abc");
  REQUIRE(pieces.size() == 6);
  for (std::size_t i = 0; i < 5; ++i) CHECK(pieces[i] == pieces[0]);
  CHECK(pieces[0] == "abc");
  CHECK(pieces[5] == "ab");
}

}  // namespace
}  // namespace moegrad
