// capped-simplex against a bisection of its definition.

#include <algorithm>

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// w of one token by 200 halvings of tau.
std::vector<double> by_bisection(const std::vector<double>& o, double k, double lambda) {
  const auto at = [&](double tau) {
    std::vector<double> w;
    for (const double v : o) w.push_back(std::clamp((v - tau) / lambda, 0.0, 1.0));
    return w;
  };
  double low = *std::min_element(o.begin(), o.end()) - lambda;
  double high = *std::max_element(o.begin(), o.end());
  for (int i = 0; i < 200; ++i) {
    const double tau = 0.5 * (low + high);
    double sum = 0.0;
    for (const double v : at(tau)) sum += v;
    (sum >= k ? low : high) = tau;
  }
  return at(low);
}

struct Run {
  std::vector<double> weights;  // [N E], by expert
  Tensor selected, scores, gradient;
};

Run run_capped(const Tensor& o, std::int64_t k, const std::string& lambda, const Tensor& a = {}) {
  const std::int64_t experts = o.size(1);
  Tape tape;
  const Var x = tape.variable(o);
  const Routing r =
      router_of("capped-simplex", {{"lambda", lambda}})
          ->route(square_size(experts, k), {x, identity_weights(tape, experts), true});
  Run run{std::vector<double>(static_cast<std::size_t>(o.numel()), 0.0),
          r.selected,
          r.scores.value(),
          {}};
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    const auto e = r.selected.data<std::int32_t>()[i];
    if (e >= 0)
      run.weights[static_cast<std::size_t>(i / experts * experts + e)] = r.weights.value().at(i);
  }
  if (a.defined()) {
    const Var chosen = take_columns(tape.constant(a), r.selected);
    run.gradient = tape.backward(sum(r.weights * chosen))[x];
  }
  return run;
}

}  // namespace

TEST_CASE("capped-simplex: weights by bisection, its gradient on the free experts alone") {
  constexpr std::int64_t kTokens = 40, kExperts = 7;
  const Tensor o = Rng{8, 0, 0}.normal({kTokens, kExperts}, DType::f64);
  const Tensor a = Rng{8, 1, 0}.normal({kTokens, kExperts}, DType::f64);
  int free_total = 0;
  int capped_total = 0;
  int closed_total = 0;
  for (const std::string lambda : {"0.05", "0.7", "3"}) {
    for (const std::int64_t k : {1, 2, 3, 6, 7}) {
      CAPTURE(lambda);
      CAPTURE(k);
      const double width = std::stod(lambda);
      const Run r = run_capped(o, k, lambda, a);
      for (std::int64_t t = 0; t < kTokens; ++t) {
        std::vector<double> row;
        for (std::int64_t e = 0; e < kExperts; ++e) row.push_back(o.at(t * kExperts + e));
        const std::vector<double> w = by_bisection(row, static_cast<double>(k), width);
        double sum = 0.0;
        double mean = 0.0;
        int free = 0;
        for (std::int64_t e = 0; e < kExperts; ++e) {
          const double v = w[static_cast<std::size_t>(e)];
          const double found = r.weights[static_cast<std::size_t>(t * kExperts + e)];
          CHECK(std::abs(found - v) < 1e-13);
          CHECK(std::abs(r.scores.at(t * kExperts + e) - v / static_cast<double>(k)) < 1e-13);
          sum += found;
          if (v > 1e-12 && v < 1.0 - 1e-12) ++free, mean += a.at(t * kExperts + e);
          (v <= 1e-12 ? closed_total : v < 1.0 - 1e-12 ? free_total : capped_total) += 1;
        }
        CHECK(sum == doctest::Approx(static_cast<double>(k)).epsilon(1e-13));
        for (std::int64_t e = 0; e < kExperts; ++e) {
          const double v = w[static_cast<std::size_t>(e)];
          const bool is_free = v > 1e-12 && v < 1.0 - 1e-12;
          const double expected = is_free ? (a.at(t * kExperts + e) - mean / free) / width : 0.0;
          CHECK(std::abs(r.gradient.at(t * kExperts + e) - expected) < 1e-12);
        }
      }
    }
  }
  CHECK(free_total > 100);
  CHECK(capped_total > 100);
  CHECK(closed_total > 100);
}

TEST_CASE("capped-simplex: apart it is the hard top k with weights 1, equal logits share k") {
  const Run apart = run_capped(Tensor::of<double>({1, 4}, {1.0, 3.0, -2.0, 1e4}), 2, "0.1",
                               Tensor::of<double>({1, 4}, {1.0, 2.0, 3.0, 4.0}));
  CHECK(apart.weights == std::vector<double>{0.0, 1.0, 0.0, 1.0});
  CHECK(ids_of(apart.selected) == std::vector<std::int32_t>{-1, 1, -1, 3});
  CHECK(apart.gradient.to_vector() == std::vector<double>(4, 0.0));
  const Run tied = run_capped(Tensor::of<double>({1, 4}, {0.5, 0.5, 0.5, 0.5}), 2, "0.1");
  CHECK(tied.weights == std::vector<double>(4, 0.5));
  // One at the cap, the others share what is left.
  const Run mixed = run_capped(Tensor::of<double>({1, 3}, {5.0, 0.25, 0.0}), 2, "1");
  CHECK(mixed.weights == std::vector<double>{1.0, 0.625, 0.375});
}

TEST_CASE("capped-simplex: a logit that moves a weight through its walls moves y continuously") {
  double before = 0.0;
  for (int i = 0; i <= 400; ++i) {
    const double o = -2.0 + 0.01 * i;
    const Run r = run_capped(Tensor::of<double>({1, 3}, {o, 0.3, -0.4}), 2, "0.5");
    if (i > 0) CHECK(std::abs(r.weights[0] - before) <= 0.01 / 0.5 + 1e-12);
    CHECK(r.weights[0] >= before - 1e-12);
    before = r.weights[0];
  }
  CHECK(before == 1.0);
}

// Two logits, apart by lambda and a gap: within it the second opens, and both get a gradient.
TEST_CASE("capped-simplex: the kink is as far as the next expert is from opening") {
  for (const double gap : {0.3, 1e-6, -1e-6, -0.1}) {
    CAPTURE(gap);
    for (const std::int64_t k : {1, 2}) {
      const Tensor o = k == 1 ? Tensor::of<double>({1, 3}, {0.5 + gap, 0.0, -3.0})
                              : Tensor::of<double>({1, 3}, {9.0, 0.5 + gap, 0.0});
      const Program program = [&](Tape& tape, std::span<const Var> x) {
        const Routing r = router_of("capped-simplex", {{"lambda", "0.5"}})
                              ->route(square_size(3, k), {x[0], identity_weights(tape, 3), true});
        const Var a = tape.constant(Tensor::of<double>({1, 3}, {1.0, 2.0, 4.0}));
        return sum(r.weights * take_columns(a, r.selected));
      };
      const GradcheckReport report = gradcheck(program, {o});
      CHECK(report.verdict == Verdict::pass);
      // Of two that are free, each moves by half.
      CHECK(report.wall == doctest::Approx(gap > 0.0 ? gap : -gap / 2.0).epsilon(1e-6));
    }
  }
}
