// What these orders are for, and how they are right, is held by tests/moe/score_order_test.cc.
#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// Of the rows of s + b in f64, those of the kept groups: the places of the k largest.
Values largest(const Tensor& s, const Tensor& b, std::int64_t k, std::int64_t groups,
               std::int64_t kept) {
  const std::int64_t experts = s.size(1);
  const std::int64_t each = experts / groups;
  Values want;
  for (std::int64_t t = 0; t < s.size(0); ++t) {
    const auto sum = [&](std::int64_t e) { return s.at(t * experts + e) + b.at(e); };
    std::vector<std::pair<double, std::int64_t>> best;
    for (std::int64_t g = 0; g < groups; ++g) {
      Values group;
      for (std::int64_t e = g * each; e < (g + 1) * each; ++e) group.push_back(-sum(e));
      std::sort(group.begin(), group.end());
      best.emplace_back(each > 1 ? group[0] + group[1] : group[0], g);
    }
    std::sort(best.begin(), best.end());
    std::vector<std::pair<double, std::int64_t>> open;
    for (std::int64_t p = 0; p < kept; ++p) {
      for (std::int64_t e = 0; e < each; ++e) {
        const std::int64_t expert = best[at(p)].second * each + e;
        open.emplace_back(-sum(expert), expert);
      }
    }
    std::sort(open.begin(), open.end());
    for (std::int64_t j = 0; j < k; ++j) want.push_back(static_cast<double>(open[at(j)].second));
  }
  return want;
}

}  // namespace

KERNEL_TEST("the k largest of score and bias, in groups too") {
  struct Case {
    std::int64_t tokens, experts, k, groups, kept;
  };
  for (const auto& c :
       {Case{0, 4, 2, 1, 1}, Case{1, 1, 1, 1, 1}, Case{9, 5, 5, 1, 1}, Case{700, 8, 3, 4, 2},
        Case{300, 6, 2, 6, 3}, Case{40, 70, 9, 1, 1}, Case{50, 72, 6, 36, 20}}) {
    const Tensor o = random({c.tokens, c.experts}, DType::f64, 3);
    const Tensor b = random({c.experts}, DType::f64, 4, -0.2, 0.2);
    // The scores are inputs: every device is given the same.
    const auto unary = [](std::size_t functor, const Tensor& x) {
      const Tensor y = x.like();
      kernels(Device::cpu).unary(functor, {}, x, y);
      return y;
    };
    const auto check = [&](Score score, const Tensor& s) {
      const Tensor logits = on(o);
      const Tensor scores = on(s);
      const Tensor bias = on(b);
      const auto run = [&](const Tensor& of, const Tensor& with) {
        return on.run({c.tokens, c.k}, DType::i32, [&](const Tensor& out) {
          on->top_biased(score, of, logits, with, c.groups, c.kept, out);
        });
      };
      check_close(run(scores, bias), largest(s, b, c.k, c.groups, c.kept), 0.0);
      // In f32 sums within 1e-4 of each other are made of the logits: the same order.
      check_close(run(scores.to(DType::f32), bias.to(DType::f32)),
                  largest(s, b.to(DType::f32), c.k, c.groups, c.kept), 0.0);
    };
    check(Score::sigmoid, unary(UnaryFunctors::index_of<functor::Sigmoid>(), o));
    check(Score::root_softplus, unary(UnaryFunctors::index_of<functor::Sqrt>(),
                                      unary(UnaryFunctors::index_of<functor::Softplus>(), o)));
  }
}

KERNEL_TEST("log odds of the softmax, of saturated rows too") {
  const double inf = std::numeric_limits<double>::infinity();
  const auto run = [&](const Tensor& o) {
    const Tensor there = on(o);
    return on.run(o.shape(), DType::f64, [&](const Tensor& out) { on->log_odds(there, out); });
  };
  for (const std::int64_t n : {7, 45}) {
    const Tensor o = random({3500 / n, n}, DType::f64, 5, -6.0, 6.0);
    Values want;
    for (std::int64_t t = 0; t < 3500 / n; ++t) {
      for (std::int64_t e = 0; e < n; ++e) {
        double others = 0.0;
        for (std::int64_t i = 0; i < n; ++i) {
          if (i != e) others += std::exp(o.at(t * n + i) - o.at(t * n + e));
        }
        want.push_back(-std::log(others));
      }
    }
    check_close(run(o), want, 100.0);
  }
  check_close(run(Tensor::of<float>({2, 2}, {50, 0, -900, 900})), {50, -50, -1800, 1800}, 0.0);
  check_close(run(Tensor::of<float>({1, 1}, {3})), {inf}, 0.0);
  check_close(run(Tensor::empty({0, 3}, DType::f32, Device::cpu)), {}, 0.0);
  const double nan = std::nan("");
  check_close(run(Tensor::of<double>({1, 2}, {nan, 1.0})), {nan, nan}, 0.0);
}
