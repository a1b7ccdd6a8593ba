// ste-probe: its mean over all draws is ste-dense-router's gradient; its variance falls as 1/m.

#include <cmath>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "tests/temporary_files.h"

using namespace moegrad;

namespace {

using OptionMap = std::map<std::string, std::string>;

LayerFixture fixture(const std::string& estimator, const OptionMap& options, std::int64_t tokens) {
  LayerConfig config;
  config.size = {3, 4, 2, 5, 2};
  config.estimator = estimator;
  config.activation = Activation::silu;
  config.options = options;
  return random_fixture(config, tokens, true);
}

struct Moments {
  std::vector<Tensor> mean;
  double variance = 0.0;  // E |gradient - mean|^2 over all inputs
  int outcomes = 0;
};

Moments moments_of(const LayerFixture& f) {
  Moments m;
  for (const Tensor& v : f.values)
    m.mean.push_back(Tensor::zeros(v.shape(), DType::f64, Device::cpu));
  double squares = 0.0;
  Decisions outcomes = Decisions::enumerator();
  do {
    PassOptions options;
    options.decisions = &outcomes;
    const LayerPass pass = run_pass(f, options);
    const double p = outcomes.probability();
    for (std::size_t i = 0; i < m.mean.size(); ++i) {
      for (std::int64_t j = 0; j < m.mean[i].numel(); ++j) {
        const double g = pass.gradients[i].at(j);
        m.mean[i].write<double>()[j] += p * g;
        squares += p * g * g;
      }
    }
    ++m.outcomes;
  } while (outcomes.next_outcome());
  m.variance = squares;
  for (const Tensor& mean : m.mean) {
    for (const double g : mean.to_vector()) m.variance -= g * g;
  }
  return m;
}

}  // namespace

TEST_CASE("ste-probe: in the mean over its draws it is ste-dense-router, and m draws vary 1/m") {
  for (const std::string proposal : {"uniform", "scores"}) {
    for (const std::string renormalise : {"false", "true"}) {
      CAPTURE(proposal);
      CAPTURE(renormalise);
      const LayerFixture exact = fixture("ste-dense-router", {{"renormalise", renormalise}}, 2);
      const LayerPass dense = run_pass(exact);
      const LayerPass sparse = run_pass(fixture("sparse", {{"renormalise", renormalise}}, 2));
      double first = 0.0;
      for (const int m : {1, 2, 3}) {
        CAPTURE(m);
        const LayerFixture f = fixture(
            "ste-probe",
            {{"renormalise", renormalise}, {"proposal", proposal}, {"probes", std::to_string(m)}},
            2);
        const Moments found = moments_of(f);
        CHECK(found.outcomes == (m == 1 ? 9 : m == 2 ? 81 : 729));
        for (std::size_t i = 0; i < found.mean.size(); ++i) {
          CAPTURE(f.names[i]);
          CHECK(close(found.mean[i], dense.gradients[i], 1e-12));
          // Only the router's gradient is another than the sparse layer's.
          const bool of_router = f.names[i] == "x" || f.names[i].starts_with("router.");
          if (!of_router) CHECK(close(found.mean[i], sparse.gradients[i], 1e-12));
          if (of_router) CHECK_FALSE(close(found.mean[i], sparse.gradients[i], 1e-3));
        }
        if (m == 1) first = found.variance;
        CHECK(first > 1e-4);
        CHECK(found.variance == doctest::Approx(first / m).epsilon(1e-9));
      }
    }
  }
}

TEST_CASE("ste-probe: every n-th step all experts run, and the steps are counted") {
  const auto with_phase = [](LayerFixture f, double phase) {
    for (auto& [name, value] : f.state) {
      if (name == "estimator.phase") value = Tensor::of<double>({1}, {phase});
    }
    return f;
  };
  const LayerPass dense = run_pass(fixture("ste-dense-router", {}, 4));
  const LayerPass sparse = run_pass(fixture("sparse", {}, 4));
  for (const std::string probes : {"0", "1"}) {
    CAPTURE(probes);
    const LayerFixture f = fixture("ste-probe", {{"every", "3"}, {"probes", probes}}, 4);
    double phase = 0.0;
    for (int i = 1; i <= 7; ++i) {
      CAPTURE(i);
      const LayerPass pass = run_pass(with_phase(f, phase));
      CHECK(pass.y.same_bits(sparse.y));
      REQUIRE(pass.updates.size() == 1);
      phase = pass.updates[0].second.item();
      CHECK(phase == static_cast<double>(i % 3));
      for (std::size_t j = 0; j < f.names.size(); ++j) {
        CAPTURE(f.names[j]);
        if (i % 3 == 0) CHECK(close(pass.gradients[j], dense.gradients[j], 1e-12));
        if (i % 3 != 0 && probes == "0") {
          CHECK(close(pass.gradients[j], sparse.gradients[j], 1e-12));
        }
      }
      if (i % 3 != 0 && probes == "1") {
        CHECK_FALSE(close(pass.gradients[1], dense.gradients[1], 1e-3));
        CHECK_FALSE(close(pass.gradients[1], sparse.gradients[1], 1e-3));
      }
    }
  }
  CHECK(run_pass(fixture("ste-probe", {}, 4)).updates.empty());
  CHECK(test::error_of([] {
          run_pass(fixture("ste-probe", {{"probes", "0"}}, 4));
        }).find("probes is 0 and every is 0") != std::string::npos);
}

// The experts off R have scores that are 0 in f64, and some tokens have no expert off R.
TEST_CASE("ste-probe: scores that underflow are drawn from, and a token may have none to draw") {
  for (const std::string proposal : {"uniform", "scores"}) {
    LayerFixture f = fixture("ste-probe", {{"proposal", proposal}, {"probes", "2"}}, 3);
    for (double& v : f.values[1].write_values<double>()) v *= 5000.0;
    const LayerPass pass = run_pass(f);
    for (const Tensor& g : pass.gradients) {
      for (const double v : g.to_vector()) CHECK(std::isfinite(v));
    }
    f.config.router = "softmax";
    const LayerPass all = run_pass(random_fixture(f.config, 3, true));
    f.config.estimator = "sparse";
    f.config.options.clear();
    const LayerPass expected = run_pass(random_fixture(f.config, 3, true));
    for (std::size_t i = 0; i < all.gradients.size(); ++i) {
      CHECK(close(all.gradients[i], expected.gradients[i], 1e-12));
    }
  }
}
