// attention and lsh-attention by plain loops over queries, keys and experts.

#include <cmath>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

using Values = std::map<std::string, std::string>;
constexpr std::int64_t kTokens = 12, kExperts = 3, kWidth = 4, kOutput = 2;

LayerFixture fixture(const std::string& estimator, const Values& options, std::int64_t sequence,
                     bool scores) {
  LayerConfig c;
  c.size = {kWidth, 4, kOutput, kExperts, 1};
  c.estimator = estimator;
  c.activation = Activation::gelu;
  c.options = options;
  LayerFixture f = random_fixture(c, kTokens, true);
  f.sequence = sequence;
  f.attention =
      scores ? Rng{6, 0, 0}.normal({kTokens / sequence, sequence, sequence}, DType::f64, 0.0, 1.5)
             : Tensor();
  return f;
}

bool flag(const LayerFixture& f, const std::string& name, const std::string& value) {
  const auto option = f.config.options.find(name);
  return option != f.config.options.end() && option->second == value;
}

// What the estimator should give, from the definition.
struct Expected {
  std::vector<double> y, bias, b2;
};

Expected expected_of(const LayerFixture& f, bool same_bucket[kTokens][kTokens]) {
  LayerFixture plain = f;
  plain.config.estimator = "sparse";
  plain.config.options.clear();
  const LayerPass sparse = run_pass(plain);
  Tape tape;
  const Tensor p = softmax(matmul(tape.constant(f.values[0]), tape.constant(f.values[1])) +
                           tape.constant(f.values[2]))
                       .value();
  const Tensor& x = f.values[0];
  const Tensor g = random_cotangent(sparse.y.shape());
  const std::int32_t* chosen = sparse.selected.data<std::int32_t>();
  const bool batch = flag(f, "scope", "batch");
  Expected out;
  out.y = sparse.y.to_vector();
  out.bias.assign(kExperts, 0.0);
  out.b2.assign(kExperts * kOutput, 0.0);
  for (std::int64_t q = 0; q < kTokens; ++q) {
    double gbar[kExperts] = {};
    double mean = 0.0;
    for (std::int64_t j = 0; j < kExperts; ++j) {
      const double pj = p.at(q * kExperts + j);
      double v[kOutput] = {};
      double total = 0.0;
      for (std::int64_t k = 0; chosen[q] != j && k < kTokens; ++k) {
        if (chosen[k] != j || !same_bucket[q][k]) continue;
        if (!batch && q / f.sequence != k / f.sequence) continue;
        if (flag(f, "causal", "true") && k > q) continue;
        double a = 0.0;
        if (f.attention.defined() && !batch) {
          a = f.attention.at((q / f.sequence * f.sequence + q % f.sequence) * f.sequence +
                             k % f.sequence);
        } else {
          for (std::int64_t d = 0; d < kWidth; ++d)
            a += x.at(q * kWidth + d) * x.at(k * kWidth + d);
          a /= 2.0;  // sqrt(4)
        }
        total += std::exp(a);
        for (std::int64_t d = 0; d < kOutput; ++d) {
          v[d] += std::exp(a) * sparse.y.at(k * kOutput + d) / p.at(k * kExperts + j);
        }
      }
      for (std::int64_t d = 0; d < kOutput; ++d) {
        const auto at = static_cast<std::size_t>(q * kOutput + d);
        const auto b2 = static_cast<std::size_t>(j * kOutput + d);
        if (chosen[q] == j) {
          v[d] = sparse.y.at(q * kOutput + d) / pj;
          out.b2[b2] += pj * g.at(q * kOutput + d);
        } else if (total > 0.0) {
          v[d] /= total;
          if (flag(f, "forward", "true")) out.y[at] += pj * v[d];
          if (flag(f, "experts", "mean")) out.b2[b2] += pj * g.at(q * kOutput + d);
        }
        gbar[j] += g.at(q * kOutput + d) * v[d];
      }
      mean += pj * gbar[j];
    }
    for (std::int64_t j = 0; j < kExperts; ++j) {
      out.bias[static_cast<std::size_t>(j)] += p.at(q * kExperts + j) * (gbar[j] - mean);
    }
  }
  return out;
}

void check_equal(const Tensor& got, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(got.at(static_cast<std::int64_t>(i)) == doctest::Approx(expected[i]).epsilon(1e-11));
  }
}

void check_fixture(const LayerFixture& f, bool same_bucket[kTokens][kTokens]) {
  const Expected expected = expected_of(f, same_bucket);
  const auto at = [&](const char* name) {
    return static_cast<std::size_t>(std::find(f.names.begin(), f.names.end(), name) -
                                    f.names.begin());
  };
  for (const Form form : {Form::fused, Form::written}) {
    PassOptions options;
    options.form = form;
    const LayerPass pass = run_pass(f, options);
    check_equal(pass.y, expected.y);
    check_equal(pass.gradients[at("router.bias")], expected.bias);
    check_equal(pass.gradients[at("experts.b2")], expected.b2);
  }
}

}  // namespace

TEST_CASE("attention by its definition: value, router and experts") {
  bool all[kTokens][kTokens];
  std::fill_n(&all[0][0], kTokens * kTokens, true);
  for (const bool scores : {true, false}) {
    for (const std::int64_t sequence : {12, 4, 1}) {
      for (const Values& options :
           {Values{},
            {{"causal", "true"}},
            {{"scope", "batch"}},
            {{"forward", "true"}},
            {{"experts", "mean"}},
            {{"experts", "mean"}, {"forward", "true"}, {"causal", "true"}}}) {
        CAPTURE(sequence);
        check_fixture(fixture("attention", options, sequence, scores), all);
      }
    }
  }
}

TEST_CASE("lsh-attention: the tokens of the same bucket only") {
  for (const char* planes : {"1", "3"}) {
    const LayerFixture f = fixture(
        "lsh-attention", {{"planes", planes}, {"seed", "7"}, {"experts", "mean"}}, 12, true);
    const std::int64_t count = planes[0] - '0';
    const Tensor normals = Rng{7, 0, 0}.normal({count, kWidth}, DType::f64);
    bool same[kTokens][kTokens];
    std::int64_t apart = 0;
    for (std::int64_t q = 0; q < kTokens; ++q) {
      for (std::int64_t k = 0; k < kTokens; ++k) {
        same[q][k] = true;
        for (std::int64_t p = 0; p < count; ++p) {
          double a = 0.0;
          double b = 0.0;
          for (std::int64_t d = 0; d < kWidth; ++d) {
            a += f.values[0].at(q * kWidth + d) * normals.at(p * kWidth + d);
            b += f.values[0].at(k * kWidth + d) * normals.at(p * kWidth + d);
          }
          same[q][k] = same[q][k] && (a >= 0.0) == (b >= 0.0);
        }
        apart += same[q][k] ? 0 : 1;
      }
    }
    CHECK(apart > 0);
    check_fixture(f, same);
  }
}

TEST_CASE("with causal no token's output depends on a later one; without it does") {
  for (const bool causal : {true, false}) {
    LayerFixture f = fixture(
        "attention", {{"forward", "true"}, {"causal", causal ? "true" : "false"}}, 12, false);
    const Tensor before = run_pass(f).y;
    f.values[0] = f.values[0].clone();
    f.values[0].write<double>()[(kTokens - 1) * kWidth] += 0.05;  // the last token
    const Tensor after = run_pass(f).y;
    bool same = true;
    for (std::int64_t i = 0; i < (kTokens - 1) * kOutput; ++i) {
      same = same && before.at(i) == after.at(i);
    }
    CHECK(same == causal);
  }
}

TEST_CASE("causal models, and scores of the wrong shape") {
  const auto refused = [](const Values& options) {
    return error_of([&] {
      LayerConfig c;
      c.size = {kWidth, 4, kOutput, kExperts, 1};
      c.estimator = "attention";
      c.causal = true;
      c.options = options;
      const Layer layer(c);
    });
  };
  const std::string leak =
      "[layer] estimator attention with these options gives a token what others computed: a causal "
      "model would see the future. Choose another, or force it.";
  CHECK(refused({}) == "no error");
  CHECK(refused({{"forward", "true"}}) == leak);
  CHECK(refused({{"forward", "true"}, {"causal", "true"}}) == "no error");
  CHECK(refused({{"forward", "true"}, {"causal", "true"}, {"scope", "batch"}}) == leak);
  LayerFixture f = fixture("attention", {}, 4, true);
  f.attention = Tensor::zeros({1, 4, 4}, DType::f64, Device::cpu);
  CHECK(error_of([&] { run_pass(f); }) ==
        "[attention] the scores are [1, 4, 4]. They must be [3, 4, 4]: sequences, queries, keys.");
}
