// soft-moe and smear against loops written from their formulas, on two sequences of three tokens,
// and the paths of the layer that only they use: rows, mix and merged experts.

#include <cmath>

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

using Values = std::vector<double>;

constexpr std::int64_t kBatch = 2, kLength = 3, kWidth = 3, kHidden = 4, kOut = 2, kExperts = 3;

LayerFixture fixture(const std::string& router, bool training = true,
                     std::map<std::string, std::string> options = {}) {
  LayerConfig config;
  config.size = {kWidth, kHidden, kOut, kExperts, 1};
  config.router = router;
  config.activation = Activation::swiglu;
  config.options = std::move(options);
  LayerFixture f = random_fixture(config, kBatch * kLength, training);
  f.sequence = kLength;
  return f;
}

const Tensor& value(const LayerFixture& f, std::string_view name) {
  for (std::size_t i = 0; i < f.names.size(); ++i) {
    if (f.names[i] == name) return f.values[i];
  }
  fail("test", "no '{}'.", name);
}

// The parameters of the experts as vectors, one expert each.
struct Network {
  Values w1, b1, w2, b2, w3, b3;

  Network(const LayerFixture& f, const Values& shares) {
    for (const auto& [name, to] : {std::pair("experts.w1", &w1),
                                   {"experts.b1", &b1},
                                   {"experts.w2", &w2},
                                   {"experts.b2", &b2},
                                   {"experts.w3", &w3},
                                   {"experts.b3", &b3}}) {
      const Tensor& all = value(f, name);
      const std::int64_t each = all.numel() / kExperts;
      to->assign(static_cast<std::size_t>(each), 0.0);
      for (std::int64_t i = 0; i < all.numel(); ++i) {
        (*to)[static_cast<std::size_t>(i % each)] +=
            shares[static_cast<std::size_t>(i / each)] * all.at(i);
      }
    }
  }
  Values operator()(const Values& x) const {
    Values hidden;
    for (std::size_t h = 0; h < kHidden; ++h) {
      double gate = b1[h];
      double up = b3[h];
      for (std::size_t d = 0; d < kWidth; ++d) {
        gate += x[d] * w1[d * kHidden + h];
        up += x[d] * w3[d * kHidden + h];
      }
      hidden.push_back(gate / (1.0 + std::exp(-gate)) * up);
    }
    Values y = b2;
    for (std::size_t o = 0; o < kOut; ++o) {
      for (std::size_t h = 0; h < kHidden; ++h) y[o] += hidden[h] * w2[h * kOut + o];
    }
    return y;
  }
};

Values only(std::size_t expert) {
  Values shares(kExperts, 0.0);
  shares[expert] = 1.0;
  return shares;
}

Values token(const LayerFixture& f, std::int64_t t) {
  Values x;
  for (std::int64_t d = 0; d < kWidth; ++d) x.push_back(f.values[0].at(t * kWidth + d));
  return x;
}

Values softmax_of(Values o) {
  double sum = 0.0;
  for (double& v : o) sum += v = std::exp(v);
  for (double& v : o) v /= sum;
  return o;
}

void check_output(const Tensor& y, std::int64_t t, const Values& expected) {
  for (std::int64_t o = 0; o < kOut; ++o) {
    CHECK(y.at(t * kOut + o) ==
          doctest::Approx(expected[static_cast<std::size_t>(o)]).epsilon(1e-11));
  }
}

// One forward pass, with what it leaves on its tape.
template <class Use>
void forward(const LayerFixture& f, Use use, Decisions* decisions = nullptr) {
  Tape tape({.rng = Rng{11, 0, 0}, .decisions = decisions});
  std::vector<Var> leaves;
  for (const Tensor& v : f.values) leaves.push_back(tape.variable(v));
  Weights weights;
  use(Layer(f.config).forward(f.input(leaves, weights)));
}

GradcheckReport check_gradients(const LayerFixture& f, bool auxiliary = false) {
  return gradcheck(
      [&](Tape&, std::span<const Var> in) {
        Weights weights;
        const LayerOutput out = Layer(f.config).forward(f.input(in, weights));
        return auxiliary ? out.auxiliary : out.y;
      },
      f.values);
}

// The shares of smear's merge from its formula.
Values shares(const LayerFixture& f, std::int64_t sequence, const Values& kept) {
  Values mean(kWidth, 0.0);
  for (std::int64_t t = sequence * kLength; t < (sequence + 1) * kLength; ++t) {
    const Values x = token(f, t);
    double average = 0.0;
    double variance = 0.0;
    for (const double v : x) average += v / kWidth;
    for (const double v : x) variance += (v - average) * (v - average) / kWidth;
    for (std::size_t d = 0; d < kWidth; ++d) {
      mean[d] += (x[d] - average) / std::sqrt(variance + 1e-5) / kLength;
    }
  }
  Values o = value(f, "router.bias").to_vector();
  for (std::size_t e = 0; e < kExperts; ++e) {
    for (std::size_t d = 0; d < kWidth; ++d) {
      o[e] += mean[d] * value(f, "router.weight").at(static_cast<std::int64_t>(d * kExperts + e));
    }
  }
  Values p = softmax_of(o);
  double sum = 0.0;
  for (std::size_t e = 0; e < kExperts; ++e) sum += p[e] *= kept[e];
  for (double& v : p) v /= sum;
  return p;
}

}  // namespace

TEST_CASE("soft-moe: slots, experts and outputs") {
  for (const std::int64_t p : {1, 2}) {
    CAPTURE(p);
    const LayerFixture f = fixture("soft-moe", true, {{"slots", std::to_string(p)}});
    const Tensor y = run_pass(f).y;
    const std::int64_t slots = kExperts * p;
    const Tensor& phi = value(f, "router.slots");
    const double scale = value(f, "router.scale").item();
    for (std::int64_t b = 0; b < kBatch; ++b) {
      std::vector<Values> logits;  // of each token of the sequence
      for (std::int64_t t = 0; t < kLength; ++t) {
        const Values x = token(f, b * kLength + t);
        double size = 0.0;
        for (const double v : x) size += v * v;
        Values row;
        for (std::int64_t s = 0; s < slots; ++s) {
          double product = 0.0;
          double slot_size = 0.0;
          for (std::int64_t d = 0; d < kWidth; ++d) {
            const double q = phi.at(d * slots + s);
            product += x[static_cast<std::size_t>(d)] * q;
            slot_size += q * q;
          }
          row.push_back(scale * product / std::sqrt(size * slot_size));
        }
        logits.push_back(row);
      }
      std::vector<Values> slot_outputs;
      for (std::size_t s = 0; s < static_cast<std::size_t>(slots); ++s) {
        Values column;
        for (const Values& row : logits) column.push_back(row[s]);
        const Values d = softmax_of(column);
        Values mixture(kWidth, 0.0);
        for (std::size_t t = 0; t < kLength; ++t) {
          const Values x = token(f, b * kLength + static_cast<std::int64_t>(t));
          for (std::size_t i = 0; i < kWidth; ++i) mixture[i] += d[t] * x[i];
        }
        slot_outputs.push_back(Network(f, only(s / static_cast<std::size_t>(p)))(mixture));
      }
      for (std::size_t t = 0; t < kLength; ++t) {
        const Values c = softmax_of(logits[t]);
        Values expected(kOut, 0.0);
        for (std::size_t s = 0; s < c.size(); ++s) {
          for (std::size_t o = 0; o < kOut; ++o) expected[o] += c[s] * slot_outputs[s][o];
        }
        check_output(y, b * kLength + static_cast<std::int64_t>(t), expected);
      }
    }
  }
}

TEST_CASE("soft-moe: with sequences of one token it is the dense mixture") {
  LayerFixture f = fixture("soft-moe");
  f.sequence = 1;
  forward(f, [&](const LayerOutput& out) {
    for (std::int64_t t = 0; t < kBatch * kLength; ++t) {
      Values expected(kOut, 0.0);
      for (std::size_t e = 0; e < kExperts; ++e) {
        const Values y = Network(f, only(e))(token(f, t));
        const double c = out.routing.mix.value().at(t * kExperts + static_cast<std::int64_t>(e));
        for (std::size_t o = 0; o < kOut; ++o) expected[o] += c * y[o];
      }
      check_output(out.y.value(), t, expected);
    }
  });
}

TEST_CASE("soft-moe: a token of zeros has a finite gradient") {
  LayerFixture f = fixture("soft-moe");
  std::fill_n(f.values[0].write<double>(), kWidth, 0.0);
  for (const Tensor& g : run_pass(f).gradients) {
    for (const double v : g.to_vector()) CHECK(std::isfinite(v));
  }
}

TEST_CASE("soft-moe: the rows' routing") {
  forward(fixture("soft-moe", true, {{"slots", "2"}}), [](const LayerOutput& out) {
    const Routing& r = out.routing;
    CHECK(r.selected.to_vector() == Values{0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2});
    CHECK(r.rows.shape() == Shape{12, kWidth});
    CHECK(r.mix.shape() == Shape{kBatch, kLength, 6});
    CHECK(out.expert_load().to_vector() == Values{4, 4, 4});
    CHECK(switch_auxiliary(r).value().item() == doctest::Approx(1.0).epsilon(1e-14));
  });
}

TEST_CASE("soft-moe and smear: gradients over several sequences") {
  for (const char* router : {"soft-moe", "smear"}) {
    CAPTURE(router);
    const GradcheckReport report = check_gradients(fixture(router));
    CHECK_MESSAGE(report.verdict == Verdict::pass, report.text());
  }
  const GradcheckReport slots = check_gradients(fixture("soft-moe", true, {{"slots", "2"}}));
  CHECK_MESSAGE(slots.verdict == Verdict::pass, slots.text());
}

TEST_CASE("soft-moe and smear: a sequence is independent of the others") {
  for (const char* router : {"soft-moe", "smear"}) {
    CAPTURE(router);
    LayerFixture f = fixture(router, false);
    const Tensor before = run_pass(f).y;
    f.values[0].write<double>()[kLength * kWidth] += 0.5;
    const Tensor after = run_pass(f).y;
    CHECK(before.rows(0, kLength).same_bits(after.rows(0, kLength)));
    for (std::int64_t t = kLength; t < 2 * kLength; ++t) {
      CHECK(before.at(t * kOut) != after.at(t * kOut));
    }
  }
}

TEST_CASE("soft-moe and smear: what a layer refuses") {
  for (const std::string router : {"soft-moe", "smear"}) {
    LayerFixture f = fixture(router);
    f.config.causal = true;
    CHECK(error_of([&] { run_pass(f); }) ==
          "[layer] router " + router +
              " looks at other tokens of the batch: a causal model would see the future. Choose "
              "another router, or force it.");
    f.config.force = true;
    CHECK(error_of([&] { run_pass(f); }) == "no error");
    f.config.estimator = "ste-dense";
    CHECK(error_of([&] { run_pass(f); }) ==
          "[layer] router " + router +
              " is differentiable as it is, without a selection for estimator ste-dense to pass. "
              "Use the estimator sparse.");
  }
}

TEST_CASE("smear: inference merges by the softmax of the mean normalised token") {
  const LayerFixture f = fixture("smear", false);
  forward(f, [&](const LayerOutput& out) {
    Values load(kExperts, 0.0);
    for (std::int64_t b = 0; b < kBatch; ++b) {
      const Values p = shares(f, b, Values(kExperts, 1.0));
      const Network network(f, p);
      for (std::int64_t t = b * kLength; t < (b + 1) * kLength; ++t) {
        check_output(out.y.value(), t, network(token(f, t)));
        for (std::int64_t e = 0; e < kExperts; ++e) {
          CHECK(out.routing.scores.value().at(t * kExperts + e) ==
                doctest::Approx(p[static_cast<std::size_t>(e)]).epsilon(1e-12));
        }
      }
      for (std::size_t e = 0; e < kExperts; ++e) load[e] += p[e];
    }
    for (std::size_t e = 0; e < kExperts; ++e) {
      CHECK(out.expert_load().to_vector()[e] == doctest::Approx(load[e]).epsilon(1e-12));
    }
  });
}

// The first sequence loses expert 1; the second all of them, which counts as none.
TEST_CASE("smear: training drops experts and makes the shares up of the others") {
  const LayerFixture f = fixture("smear", true, {{"aux", "0.7"}});
  Decisions decisions;
  decisions.give("expert-dropout", Tensor::of<std::int32_t>({6}, {1, 0, 1, 0, 0, 0}));
  const std::vector<Values> kept = {{1.0, 0.0, 1.0}, {1.0, 1.0, 1.0}};
  forward(
      f,
      [&](const LayerOutput& out) {
        double auxiliary = 0.0;
        Values p_mean(kExperts, 0.0);
        Values share_mean(kExperts, 0.0);
        for (std::int64_t b = 0; b < kBatch; ++b) {
          const Values p = shares(f, b, Values(kExperts, 1.0));
          const Values merged = shares(f, b, kept[static_cast<std::size_t>(b)]);
          const Network network(f, merged);
          for (std::int64_t t = b * kLength; t < (b + 1) * kLength; ++t) {
            check_output(out.y.value(), t, network(token(f, t)));
          }
          for (std::size_t e = 0; e < kExperts; ++e) {
            p_mean[e] += p[e] / kBatch;
            share_mean[e] += merged[e] / kBatch;
          }
        }
        for (std::size_t e = 0; e < kExperts; ++e) {
          auxiliary += 0.7 * kExperts * p_mean[e] * share_mean[e];
        }
        CHECK(out.routing.merge.value().at(1) == 0.0);
        CHECK(out.auxiliary.value().item() == doctest::Approx(auxiliary).epsilon(1e-12));
      },
      &decisions);
  const GradcheckReport report = check_gradients(f, true);
  CHECK_MESSAGE(report.verdict == Verdict::pass, report.text());
}

// 20000 draws of probability 0.1, less 0.1^4 of rows that lose none instead of all; 5 deviations.
TEST_CASE("smear: live dropout has its probability") {
  constexpr std::int64_t kSequences = 5000;
  const RouterEntry& entry = router_entry("smear");
  const auto router = entry.make(Options("router smear", entry.options));
  Tape tape({.rng = Rng{7, 0, 0}});
  Weights weights;
  weights.set("router.weight", tape.constant(Tensor::zeros({2, 4}, DType::f64, Device::cpu)));
  const Var x = tape.constant(Rng{8, 0, 0}.normal({kSequences, 2}, DType::f64));
  const Routing r = router->route({2, 1, 1, 4, 1}, {x, weights, true});
  double dropped = 0.0;
  for (const double w : r.merge.value().to_vector()) dropped += w == 0.0 ? 1.0 : 0.0;
  CHECK(std::abs(dropped / (4.0 * kSequences) - 0.0999) <
        5.0 * std::sqrt(0.09 / (4.0 * kSequences)));
}
