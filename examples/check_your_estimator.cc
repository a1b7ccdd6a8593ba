// Gradient estimators of one's own: a straight-through gate, one that is wrong, and two that
// sample.
#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

// 1 where x > 0, else 0: a step, whose derivative is zero almost everywhere.
Var step(Var x) {
  Tape& t = x.tape();
  const Var zero = t.constant(Tensor::zeros(x.shape(), x.dtype(), x.value().device()));
  const Var one = t.constant(Tensor::full(x.shape(), 1.0, x.dtype(), x.value().device()));
  return where(greater(x, zero), one, zero);
}

// The value of the step, the gradient of the sigmoid.
Var gate(Var x) {
  const Var hard = step(x);
  const Var soft = sigmoid(x);
  return soft + stop_gradient(hard - soft);
}

// The same numbers, but the difference leaves the tape by a back door instead of stop_gradient.
Var wrong_gate(Var x) {
  const Var hard = step(x);
  const Var soft = sigmoid(x);
  return soft + x.tape().constant((hard - soft).value());
}

// One of three outcomes is drawn from softmax(x); the loss is a function of the outcome.
struct Draw {
  Var p;       // [1, 3]
  Var onehot;  // [1, 3]
};
Draw draw(Var x) {
  Tape& t = x.tape();
  const Var p = softmax(x);
  const Tensor outcome = t.decisions().categorical("outcome", p.value(), t.rng());
  const Var one = t.constant(Tensor::full({1, 1}, 1.0, x.dtype(), x.value().device()));
  return {p, put_columns(one, outcome.reshape({1, 1}), 3)};
}
Var loss_of(Var onehot) {
  const Var values = onehot.tape().constant(Tensor::of<double>({1, 3}, {0.2, 1.0, -0.7}));
  return square(sum(onehot * values) - 0.5);
}

// Straight-through: the outcome forward, its probabilities backward.
Var straight_through_loss(Tape&, std::span<const Var> x) {
  const Draw d = draw(x[0]);
  return loss_of(d.p + stop_gradient(d.onehot - d.p));
}

// Score function: the gradient is loss * d log p(outcome). The added term has the value 0.
Var score_function_loss(Tape&, std::span<const Var> x) {
  const Draw d = draw(x[0]);
  const Var loss = loss_of(d.onehot);
  const Var log_p = log(sum(d.p * d.onehot));
  return loss + stop_gradient(loss) * (log_p - stop_gradient(log_p));
}

}  // namespace

int main() {
  const Tensor x = Tensor::of<double>({4}, {-1.3, 0.4, 0.8, -0.2});
  const GradcheckReport good =
      gradcheck([](Tape&, std::span<const Var> in) { return gate(in[0]); }, {x});
  const GradcheckReport bad =
      gradcheck([](Tape&, std::span<const Var> in) { return wrong_gate(in[0]); }, {x});
  fmt::print("gate\n{}\nwrong gate\n{}\n", good.text(), bad.text());

  const Tensor logits = Tensor::of<double>({1, 3}, {0.3, -0.5, 0.9});
  const Expectation st = expectation(straight_through_loss, {logits});
  const Expectation score = expectation(score_function_loss, {logits});
  fmt::print("{:18} {:>8} {:>10} {:>10} {:>10}\n", "over all outcomes", "outcomes", "E[loss]",
             "bias", "variance");
  for (const auto& [name, e] : {std::pair("straight-through", &st), {"score function", &score}}) {
    fmt::print("{:18} {:8} {:10.6f} {:>10} {:10.4f}\n", name, e->outcomes, e->loss,
               e->biased() ? fmt::format("{:.1e}", e->bias) : "0", e->total_variance);
  }

  const bool checked = good.verdict == Verdict::pass && bad.verdict == Verdict::fail;
  const bool measured = st.exact && st.bias > 1e-2 && score.exact && !score.biased();
  return checked && measured ? 0 : 1;
}
