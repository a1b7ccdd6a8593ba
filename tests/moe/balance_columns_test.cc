// The losses of the columns of a router's matrix: similarity and coupling, by plain loops.

#include <cmath>

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "moe/balance.h"
#include "moe/checks/check.h"
#include "moe/layer.h"
#include "ops/ops.h"
#include "tests/devices.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

constexpr std::int64_t kModel = 3, kHidden = 5, kExperts = 4;

Tensor columns() { return Rng{3, 0, 0}.normal({kModel, kExperts}, DType::f64); }
Tensor first_matrices() { return Rng{3, 1, 0}.normal({kExperts, kModel, kHidden}, DType::f64); }

double coupling_of(const Tensor& r, const Tensor& w1, const Tensor& factors, double alpha,
                   bool normalised) {
  double m[kExperts][kExperts];
  for (std::int64_t i = 0; i < kExperts; ++i) {
    for (std::int64_t j = 0; j < kExperts; ++j) {
      double squares = 0.0;
      double of_r = 0.0;
      double of_w1 = 0.0;
      for (std::int64_t h = 0; h < kHidden; ++h) {
        double a = 0.0;
        for (std::int64_t d = 0; d < kModel; ++d) {
          const double w = w1.at((j * kModel + d) * kHidden + h);
          a += r.at(d * kExperts + i) * factors.at(i * kModel + d) * w;
          of_w1 += w * w;
        }
        squares += a * a;
      }
      for (std::int64_t d = 0; d < kModel; ++d)
        of_r += r.at(d * kExperts + i) * r.at(d * kExperts + i);
      m[i][j] = std::sqrt(squares) / (normalised ? std::sqrt(of_r * of_w1) : 1.0);
    }
  }
  double loss = 0.0;
  for (std::int64_t i = 0; i < kExperts; ++i) {
    for (std::int64_t j = 0; j < kExperts; ++j) {
      if (i == j) continue;
      loss += std::fmax(0.0, m[i][j] - alpha * m[i][i]) + std::fmax(0.0, m[j][i] - alpha * m[i][i]);
    }
  }
  return loss / (kExperts * kExperts);
}

Tensor scaled(const Tensor& t, double factor) {
  Tensor out = t.clone();
  for (double& v : out.write_values<double>()) v *= factor;
  return out;
}

}  // namespace

TEST_CASE("similarity loss: sum |W^T W - 1|, 0 of orthonormal columns, with right gradients") {
  const Tensor w = columns();
  double expected = 0.0;
  for (std::int64_t i = 0; i < kExperts; ++i) {
    for (std::int64_t j = 0; j < kExperts; ++j) {
      double product = i == j ? -1.0 : 0.0;
      for (std::int64_t d = 0; d < kModel; ++d) {
        product += w.at(d * kExperts + i) * w.at(d * kExperts + j);
      }
      expected += std::abs(product);
    }
  }
  Tape tape;
  CHECK(similarity_loss(tape.constant(w)).value().item() ==
        doctest::Approx(expected).epsilon(1e-13));
  const Tensor basis = orthogonal(6, 4, 1.0, Rng{4, 0, 0});
  CHECK(std::abs(similarity_loss(tape.constant(basis)).value().item()) < 1e-13);
  const GradcheckReport report =
      gradcheck([](Tape&, std::span<const Var> in) { return similarity_loss(in[0]); }, {w});
  CHECK_MESSAGE(report.verdict == Verdict::pass, report.text());
}

TEST_CASE("coupling loss: by loops, with right gradients") {
  const Tensor ones = Tensor::full({kExperts, kModel}, 1.0, DType::f64, Device::cpu);
  const Tensor factors = Rng{3, 2, 0}.uniform({kExperts, kModel}, DType::f64, 0.8, 1.2);
  for (const bool normalised : {false, true}) {
    for (const double alpha : {1.0, 0.6}) {
      CAPTURE(normalised);
      CAPTURE(alpha);
      const auto loss = [&](Tape&, std::span<const Var> in) {
        return coupling_loss(in[0], in[1], {alpha, normalised, false});
      };
      Tape tape;
      const Var parts[] = {tape.constant(columns()), tape.constant(first_matrices())};
      CHECK(loss(tape, parts).value().item() ==
            doctest::Approx(coupling_of(columns(), first_matrices(), ones, alpha, normalised))
                .epsilon(1e-12));
      const GradcheckReport report = gradcheck(loss, {columns(), first_matrices()});
      CHECK_MESSAGE(report.verdict == Verdict::pass, report.text());
      Decisions decisions;
      decisions.give("erc", factors);
      Tape noisy({.decisions = &decisions});
      const Var moved = coupling_loss(noisy.constant(columns()), noisy.constant(first_matrices()),
                                      {alpha, normalised, true});
      CHECK(moved.value().item() ==
            doctest::Approx(coupling_of(columns(), first_matrices(), factors, alpha, normalised))
                .epsilon(1e-12));
      // Smaller matrices make the first small, and do not change the other.
      Tape small;
      const Var less =
          coupling_loss(small.constant(scaled(columns(), 0.5)),
                        small.constant(scaled(first_matrices(), 0.1)), {alpha, normalised, false});
      CHECK(less.value().item() ==
            doctest::Approx(loss(tape, parts).value().item() * (normalised ? 1.0 : 0.05)));
    }
  }
}

// e_i = min_j |R_i - R_j| / (2 |R_i|): a column that is moved is still nearest to itself.
TEST_CASE("coupling loss: the noise reaches half way to the nearest other column") {
  const Tensor r = columns();
  double seen[kExperts] = {};
  double bounds[kExperts];
  for (std::int64_t i = 0; i < kExperts; ++i) {
    double nearest = 1e300;
    double size = 0.0;
    for (std::int64_t d = 0; d < kModel; ++d)
      size += r.at(d * kExperts + i) * r.at(d * kExperts + i);
    for (std::int64_t j = 0; j < kExperts; ++j) {
      double apart = 0.0;
      for (std::int64_t d = 0; d < kModel; ++d) {
        const double difference = r.at(d * kExperts + i) - r.at(d * kExperts + j);
        apart += difference * difference;
      }
      if (j != i) nearest = std::fmin(nearest, std::sqrt(apart));
    }
    bounds[i] = nearest / (2.0 * std::sqrt(size));
  }
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Decisions decisions = Decisions::recorder();
    Tape tape({.rng = Rng{seed, 0, 0}, .decisions = &decisions});
    coupling_loss(tape.constant(r), tape.constant(first_matrices()), {});
    const Tensor factors = decisions.recorded("erc").at(0);
    for (std::int64_t i = 0; i < kExperts * kModel; ++i) {
      seen[i / kModel] = std::fmax(seen[i / kModel], std::abs(factors.at(i) - 1.0));
    }
  }
  for (std::int64_t i = 0; i < kExperts; ++i) {
    CHECK(seen[i] <= bounds[i] * (1.0 + 1e-9));
    CHECK(seen[i] > 0.98 * bounds[i]);
  }
}

TEST_CASE("a layer adds the losses of the columns, and refuses them where there are none") {
  LayerConfig config;
  config.size = {6, 4, 2, kExperts, 2};
  config.options = {{"simbal", "0.5"}, {"erc", "0.25"}};
  const Layer layer(config);
  CHECK(layer.losses() == "simbal=0.5, erc=0.25");
  Parameters parameters;
  layer.declare("", parameters, Rng{1, 0, 0});
  const Tensor w = parameters.find("router.weight")->value;
  Tape tape;
  CHECK(std::abs(similarity_loss(tape.constant(w)).value().item()) < 1e-13);
  for (const bool training : {true, false}) {
    const LayerFixture f = random_fixture(config, 5, training);
    const LayerPass pass = run_pass(f);
    for (const Device device : test::other_devices()) {
      const LayerPass there = run_pass(on(device, f));
      CHECK(close(there.auxiliary, pass.auxiliary, 1e-12));
      for (std::size_t i = 0; i < f.names.size(); ++i) {
        CHECK(close(there.gradients[i], pass.gradients[i], 1e-11, pass.rounding[i]));
      }
    }
    if (training) continue;
    const Var columns_of_f = tape.constant(f.values[1]);
    const Var w1 = tape.constant(f.values[3]);
    const double expected =
        0.5 * similarity_loss(columns_of_f).value().item() +
        0.25 * coupling_loss(columns_of_f, w1, {1.0, false, false}).value().item();
    CHECK(pass.auxiliary.item() == doctest::Approx(expected).epsilon(1e-12));
  }
  for (const char* name : {"simbal", "erc"}) {
    config.router = "x-moe";
    config.options = {{name, "0.5"}};
    CHECK(error_of([&] { Layer{config}; }).find("there is no column for an expert") !=
          std::string::npos);
  }
}
