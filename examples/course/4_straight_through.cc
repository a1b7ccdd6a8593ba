// Chapter 4: the bias and the variance of three gradient estimators for one drawn outcome, exactly:
// every outcome of the draw is run.
#include <cmath>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

// One of three outcomes, drawn from softmax(x): D is 1 at the outcome, 0 elsewhere.
struct Draw {
  Var logits, p, hot;  // [1, 3]
};
Draw draw(Var x) {
  Tape& t = x.tape();
  const Var p = softmax(x);
  const Tensor outcome = t.decisions().categorical("outcome", p.value(), t.rng());
  const Var one = t.constant(Tensor::full({1, 1}, 1.0, DType::f64, Device::cpu));
  return {x, p, put_columns(one, outcome.reshape({1, 1}), 3)};
}

// D forward, p backward.
Var straight_through_of(const Draw& d) { return d.p + stop_gradient(d.hot - d.p); }

// D forward; backward 2 softmax' at the mean of D and p, less half of softmax' at p (ReinMax).
Var reinmax_of(const Draw& d) {
  const Var mean = stop_gradient(0.5 * (d.hot + d.p));
  const Var at_mean = softmax(stop_gradient(log(mean) - d.logits) + d.logits);
  const Var soft = 2.0 * at_mean - 0.5 * d.p;
  return soft + stop_gradient(d.hot - soft);
}

// sum_i a_i D_i, to the power of the degree.
Var loss_of(Var hot, int degree) {
  const Var a = hot.tape().constant(Tensor::of<double>({1, 3}, {0.2, 1.0, -0.7}));
  const Var z = sum(hot * a);
  return degree == 1 ? z : degree == 2 ? square(z - 0.5) : square(z - 0.5) * (z - 0.5);
}

// The gradient is L d log p(outcome): the added term has the value 0.
Var score_function_loss(const Draw& d, int degree) {
  const Var loss = loss_of(d.hot, degree);
  const Var log_p = log(sum(d.p * d.hot));
  return loss + stop_gradient(loss) * (log_p - stop_gradient(log_p));
}

}  // namespace

int main() {
  const Tensor logits = Tensor::of<double>({1, 3}, {0.3, -0.5, 0.9});
  bool as_stated = true;
  fmt::print("{:<10} {:<16} {:>8} {:>8} {:>9} {:>9}\n", "loss", "estimator", "outcomes", "E[L]",
             "bias", "variance");
  for (const int degree : {1, 2, 3}) {
    for (const std::string name : {"straight-through", "reinmax", "score function"}) {
      const Program program = [&](Tape&, std::span<const Var> x) {
        const Draw d = draw(x[0]);
        if (name == "score function") return score_function_loss(d, degree);
        return loss_of(name == "reinmax" ? reinmax_of(d) : straight_through_of(d), degree);
      };
      const Expectation e = expectation(program, {logits});
      fmt::print("{:<10} {:<16} {:>8} {:>8.4f} {:>9} {:>9.4f}\n", fmt::format("degree {}", degree),
                 name, e.outcomes, e.loss, e.biased() ? fmt::format("{:.4f}", e.bias) : "0",
                 e.total_variance);
      const int order = name == "straight-through" ? 1 : name == "reinmax" ? 2 : 3;
      as_stated = as_stated && e.exact && e.biased() == (degree > order);
    }
  }
  return as_stated ? 0 : 1;
}
